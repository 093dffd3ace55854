//! Where a server's executables are, and how they are run: as a user that PostgreSQL accepts, with an
//! environment of its own, dying with the thread that started them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The executables of one PostgreSQL with this checkout's extension installed.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub version: u32,
    pub bin: PathBuf,
}

impl Server {
    /// The private tree of `version` that `make pg-trees` made; `None` where it made none.
    ///
    /// # Panics
    /// When there are no trees at all: the tests were started without `make pg-trees`.
    pub fn find(version: u32) -> Option<Server> {
        let list = checkout().join("target/pg-trees");
        let text = fs::read_to_string(&list).unwrap_or_else(|e| {
            panic!("no PostgreSQL to test on, run `make pg-trees` first: {}: {e}", list.display())
        });
        text.lines().find_map(|line| {
            let (v, bin) = line.split_once(' ')?;
            (v.parse() == Ok(version)).then(|| Server { version, bin: bin.into() })
        })
    }

    /// One of the server's programs, to be run as the server's user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"]);
        }
        command.arg("--pdeathsig=SIGQUIT").arg("--").arg(self.bin.join(program));
        command.stdin(Stdio::null()).current_dir("/");
        // A client on this machine must not bend the tests by its own settings.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("PG") {
                command.env_remove(key);
            }
        }
        command
    }

    /// Time stamp and size of the installed library, which a template is made for.
    pub fn library_stamp(&self) -> String {
        let mut pg_config = Command::new(self.bin.join("pg_config"));
        let dir = run(pg_config.arg("--pkglibdir"));
        let library = Path::new(dir.trim()).join("distilface.so");
        let meta = fs::metadata(&library).unwrap_or_else(|e| {
            panic!(
                "the extension is not installed, run `make pg-trees`: {}: {e}",
                library.display()
            )
        });
        format!("{}-{}-{:x}-{:x}", self.version, meta.mtime(), meta.mtime_nsec(), meta.size())
    }

    /// The folder that the version trees lie in; user `postgres` can enter it.
    pub fn trees(&self) -> PathBuf {
        let version = self.version.to_string();
        // Debian's own layout repeats the version, .../15/usr/lib/postgresql/15/bin: the outermost is the tree.
        self.bin
            .ancestors()
            .filter(|dir| dir.file_name().is_some_and(|name| name == version.as_str()))
            .last()
            .and_then(Path::parent)
            .unwrap_or_else(|| panic!("{} is not in a tree of `make pg-trees`", self.bin.display()))
            .to_path_buf()
    }
}

/// The executables of the private tree of `version`, for what brings its own cluster.
pub fn bindir(version: u32) -> Option<PathBuf> {
    Server::find(version).map(|server| server.bin)
}

/// The repository's root.
pub fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the repository").to_path_buf()
}

pub(crate) fn is_root() -> bool {
    // The owner of our own process entry is the effective user.
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Makes `path` belong to the server's user.
pub(crate) fn give_to_postgres(path: &Path) {
    if is_root() {
        run(Command::new("chown").arg("-R").arg("postgres:postgres").arg(path));
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Panics
/// When it fails, with everything it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{command:?}: {status}\n{stdout}\n{}",
        String::from_utf8_lossy(&stderr)
    );
    stdout
}
