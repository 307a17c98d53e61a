//! Directories that were wiped, copied or restored.
