#!/bin/bash
# Records what `docker compose config` says of every fixture of the loader and of the examples, for tests to compare with.
#
#   tests/compose-goldens.sh [DOCKER_COMPOSE]     the program of Docker Compose 2.40 [default: docker-compose]
#
# A fixture is one file, or several that each begin with a line `## NAME`; those whose names end in `.yaml` are given to
# Compose in their order. Lines `# env NAME=VALUE` and `# profile NAME` before them say how it is called. Debian sid has
# the program: package docker-compose.
set -euo pipefail
compose=$(command -v "${1:-docker-compose}") || { echo "compose-goldens: Docker Compose is missing" >&2; exit 1; }
cd "$(dirname "$0")/../proto/src/compose/tests/config"
version=$("$compose" version --short)
[[ $version == 2.40.* ]] || { echo "compose-goldens: version $version is not 2.40" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
refused=0
for fixture in *.txt ../../../../../compose-examples/*/compose.yaml; do
    dir=$scratch/shop
    rm -rf "$dir"
    mkdir "$dir"
    env=(HOME=/root PATH="$PATH")
    args=()
    while IFS= read -r line; do
        case $line in
            '# env '*) env+=("${line#\# env }") ;;
            '# profile '*) args+=(--profile "${line#\# profile }") ;;
            *) break ;;
        esac
    done <"$fixture"
    awk -v dir="$dir" '
        BEGIN { file = dir "/compose.yaml" }
        /^## / { file = dir "/" substr($0, 4); sub(/\r$/, "", file); made = file; sub(/\/[^\/]*$/, "", made)
                 system("mkdir -p \"" made "\""); printf "" > file; next }
        { print > file }
    ' "$fixture"
    while IFS= read -r name; do
        args+=(-f "$name")
    done < <({ grep -oP '^## \K\S+\.yaml$' "$fixture" || echo compose.yaml; })
    case $fixture in
        *.txt) golden=${fixture%.txt}.expected.yaml ;;
        *) golden=example-$(basename "$(dirname "$fixture")").expected.yaml ;;
    esac
    if (cd "$dir" && env -i "${env[@]}" "$compose" "${args[@]}" config) >"$scratch/out" 2>"$scratch/err"; then
        sed "s|$dir|/srv/shop|g; s|$scratch|/srv|g" "$scratch/out" >"$golden"
    else
        rm -f "$golden"
        echo "compose-goldens: $fixture is refused: $(tail -n 1 "$scratch/err")" >&2
        refused=$((refused + 1))
    fi
done
echo "compose-goldens: $(ls -- *.expected.yaml | wc -l) recorded, $refused refused"
[[ $refused -eq 0 ]]
