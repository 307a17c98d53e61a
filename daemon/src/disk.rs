//! Small files that are whole or not there, whatever happens meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Puts `bytes` into the file at `path`, with permission bits `mode`, on disk when it returns.
///
/// A reader sees the old content or the new, never a part. Errors: the directory is missing, or any write or sync
/// failed, with the path; the old content is then still there.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("writing `{}`: {error}", path.display()));
    replace(path, bytes, mode).map_err(named)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = dir.join(temporary);
    // A left-over of a crash may have other permission bits; they are set when a file is made.
    remove(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(dir)
}

/// The content of the file at `path`, if it is there. Errors: it cannot be read, or is larger than `max` bytes.
pub fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > max {
        let message = format!("{size} bytes, at most {max} are expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    fs::read(path).map(Some)
}

/// Removes the file at `path`, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes names in `dir` that were added, renamed or removed last through a power loss.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert_eq!(read(&path, 8).unwrap(), None);
        write(&path, b"old", 0o600).unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(read(&path, 8).unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path, 2).is_err());
        let missing = dir.path().join("missing/key");
        let error = write(&missing, b"new", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("missing/key"), "{error}");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
