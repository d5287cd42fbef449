//! The node's id: kept in a file, or made afresh for each start.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::NodeId;

/// The id in the file at `path`; if there is no file, a new id, and a file with it (64 hexadecimal digits, mode 0600).
///
/// # Errors
///
/// When the file cannot be read or made, when others than its owner may use it, or when it holds something else. Each
/// error names the file and says what to do.
pub(crate) fn load_or_create(path: &Path) -> io::Result<NodeId> {
    // Two processes that start at once must end up with one id: whoever loses the creation reads.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => create(file, path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(error) => Err(named(path, error.kind(), &format!("cannot be made: {error}"))),
    }
}

fn create(mut file: File, path: &Path) -> io::Result<NodeId> {
    let written = random().and_then(|bytes| {
        let id = NodeId::from_bytes(bytes);
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_all()?;
        Ok(id)
    });
    written.map_err(|error| {
        // A file without an id in it would refuse every later start.
        let left = if std::fs::remove_file(path).is_ok() { "" } else { "; remove it" };
        named(path, error.kind(), &format!("cannot be written: {error}{left}"))
    })
}

fn load(path: &Path) -> io::Result<NodeId> {
    let unreadable = |error: io::Error| named(path, error.kind(), &format!("cannot be read: {error}"));
    // Without blocking: a pipe that nobody writes to would keep the node from starting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    // Of the open file, not of the path, which may name another one by now.
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(named(path, io::ErrorKind::InvalidInput, "is no file; name one"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let why = format!("is open to others (mode {mode:o}); use chmod 600");
        return Err(named(path, io::ErrorKind::PermissionDenied, &why));
    }
    let mut text = String::new();
    file.take(66).read_to_string(&mut text).map_err(unreadable)?;
    text.trim_end().parse().map_err(|error| {
        named(
            path,
            io::ErrorKind::InvalidData,
            &format!("holds something else: {error}; remove it for a new id"),
        )
    })
}

fn named(path: &Path, kind: io::ErrorKind, why: &str) -> io::Error {
    io::Error::new(kind, format!("the id file {} {why}", path.display()))
}

/// Random bytes, for a node id or an instance id.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_id_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        let id = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), id);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(load_or_create(&folder.path().join("other")).unwrap(), id);
    }

    #[test]
    fn an_unfit_file_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&*path.to_string_lossy()), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "x", &"0".repeat(65), &format!("{}\n\n", "0".repeat(64))[1..]] {
            fs::write(&path, text).unwrap();
            assert!(load_or_create(&path).unwrap_err().to_string().contains("remove it"), "{text:?}");
        }
        assert!(load_or_create(folder.path()).unwrap_err().to_string().contains("is no file"));
        let error = load_or_create(&folder.path().join("no/id")).unwrap_err();
        assert!(error.to_string().contains("cannot be made"), "{error}");
    }
}
