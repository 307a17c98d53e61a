#!/bin/sh
# As the public image does: reachable from other containers, any option can follow the command.
set -e
if [ "$1" = redis-server ]; then
    exec "$@" --protected-mode no
fi
exec "$@"
