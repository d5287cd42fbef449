//! The node's id: kept in a file, or made afresh for each start.

use std::fs::{self, File, OpenOptions};
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
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        loaded => loaded,
    }
}

/// The file gets its name once all of it is there: no other process ever reads half an id, nor does a later start.
fn create(path: &Path) -> io::Result<NodeId> {
    let unmade = |error: io::Error| named(path, error.kind(), &format!("cannot be made: {error}"));
    let (id, suffix) = (NodeId::from_bytes(random().map_err(unmade)?), random().map_err(unmade)?);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", u64::from_ne_bytes(suffix)));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(unmade)?;
    let linked = write(file, id).and_then(|()| fs::hard_link(&draft, path));
    if let Err(error) = fs::remove_file(&draft) {
        tracing::warn!(draft = %draft.display(), %error, "cannot remove what became the id file");
    }
    match linked {
        Ok(()) => Ok(id),
        // Of two processes that start at once one makes the file, and both have its id.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(error) => Err(unmade(error)),
    }
}

fn write(mut file: File, id: NodeId) -> io::Result<()> {
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()
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
    use std::sync::Barrier;
    use std::thread;

    use super::*;

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
    fn processes_that_start_at_once_have_one_id_and_leave_one_file() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("id");
            let (all, start) = ([(); 4], Barrier::new(4));
            let ids = thread::scope(|scope| {
                let start_one = |()| {
                    scope.spawn(|| {
                        start.wait();
                        load_or_create(&path).unwrap()
                    })
                };
                all.map(start_one).map(|one| one.join().unwrap())
            });
            assert_eq!(ids, [load_or_create(&path).unwrap(); 4]);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
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
