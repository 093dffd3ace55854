//! The shared copy: a model's block as a file `base/pgsql_tmp/pgsql_tmp_distilface_SHA256` that
//! every backend maps read-only.
//!
//! PostgreSQL leaves such names out of base backups and removes them when it starts; who finds no
//! copy makes one from the tables, on a standby too. A copy appears whole: it is written under
//! another name, flushed, compared with its sha256 and renamed. One backend of the server makes it
//! while the others that want it wait. After the block come 32 bytes: magic, length and CRC, which
//! every backend compares when it opens the copy; a damaged one is made again.

use super::restore;
use crate::pg::exclusive::exclusively;
use crate::pg::interrupts;
use crate::pg::mapped::map_for_ever;
use crate::pg::report::Report;
use crate::pg::table::{self, Key};
use distilface_core::model::Packed;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// PostgreSQL's folder of temporary files, relative to the data directory, where a backend runs.
const FOLDER: &str = "base/pgsql_tmp";
const TRAILER: usize = 32;
const MAGIC: [u8; 8] = *b"DFCOPY\x00\x01";

/// The block of that sha256, from its copy, which is made where it is missing or damaged.
///
/// # Errors
/// Raises 53100 where the disk is full, 58030 where the file system fails and XX001 where the
/// tables' bytes are not the block.
pub fn open(sha256: &str) -> &'static [u8] {
    let path = path(sha256);
    if let Some(block) = open_whole(&path, sha256) {
        return block;
    }
    exclusively(lock_of(sha256), || {
        // Another backend may have made it while this one waited.
        open_whole(&path, sha256).unwrap_or_else(|| make(&path, sha256))
    })
}

/// Removes a copy that nobody needs any more; who has it mapped keeps it.
pub fn remove(sha256: &str) {
    // A copy that stays behind costs disk space until the next start, and does no harm.
    let _ = fs::remove_file(path(sha256));
}

fn path(sha256: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("pgsql_tmp_distilface_{sha256}"))
}

fn lock_of(sha256: &str) -> u64 {
    u64::from_str_radix(sha256.get(..16).unwrap_or("0"), 16).unwrap_or(0)
}

/// The copy, where it is there and undamaged.
fn open_whole(path: &Path, sha256: &str) -> Option<&'static [u8]> {
    let file = File::open(path).ok()?;
    let bytes = map_for_ever(&file).ok()?;
    let (block, trailer) = bytes.split_last_chunk::<TRAILER>()?;
    let whole = *trailer == trailer_of(block.len(), crc32fast::hash(block))
        && Packed::open(block).is_ok_and(|packed| packed.sha256() == sha256);
    whole.then_some(block)
}

fn trailer_of(length: usize, crc: u32) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    trailer[..8].copy_from_slice(&MAGIC);
    trailer[8..16].copy_from_slice(&(length as u64).to_le_bytes());
    trailer[16..20].copy_from_slice(&crc.to_le_bytes());
    trailer
}

/// A file that goes away unless it is renamed: also where an error unwinds.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn make(path: &Path, sha256: &str) -> &'static [u8] {
    let fail = |error: io::Error| -> ! { refuse(path, &error) };
    if let Err(error) = DirBuilder::new().mode(0o700).create(FOLDER)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        fail(error);
    }
    // PostgreSQL removes it at the next start where this process dies on the way.
    let unfinished = Unfinished(path.with_extension(std::process::id().to_string()));
    let _ = fs::remove_file(&unfinished.0);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished.0)
        .unwrap_or_else(|error| fail(error));
    let mut crc = crc32fast::Hasher::new();
    let mut length = 0;
    for part in 0.. {
        interrupts::check();
        let Some(bytes) = part_of(sha256, part) else { break };
        crc.update(&bytes);
        length += bytes.len();
        (&file).write_all(&bytes).unwrap_or_else(|error| fail(error));
    }
    if length == 0 {
        restore::missed();
    }
    let trailer = trailer_of(length, crc.finalize());
    (&file).write_all(&trailer).and_then(|()| file.sync_all()).unwrap_or_else(|error| fail(error));
    let bytes = map_for_ever(&file).unwrap_or_else(|error| fail(error));
    let block = &bytes[..length];
    let verified =
        Packed::open(block).and_then(|packed| packed.verify().map(|()| packed.sha256() == sha256));
    match verified {
        Ok(true) => {}
        Ok(false) => damaged("expected the block of that sha256, got another".to_owned()),
        Err(error) => damaged(error.to_string()),
    }
    fs::rename(&unfinished.0, path).unwrap_or_else(|error| fail(error));
    block
}

fn part_of(sha256: &str, part: i32) -> Option<Vec<u8>> {
    let keys = [Key::Text(sha256), Key::Int(part)];
    table::find(c"model_part", c"model_part_pkey", &[1, 2], &keys, |row| {
        row.bytes(2).map_or(ControlFlow::Continue(()), ControlFlow::Break)
    })
}

fn damaged(detail: String) -> ! {
    Report::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        "the rows of distilface.model_part are not the model's",
    )
    .detail(format!("{detail}."))
    .hint("Drop the model and load it again, or restore the database.")
    .raise()
}

fn refuse(path: &Path, error: &io::Error) -> ! {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            PgSqlErrorCode::ERRCODE_DISK_FULL
        }
        _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
    };
    Report::new(code, format!("could not write the shared copy of a model: {error}"))
        .detail(format!("The file is \"{}\" in the data directory.", path.display()))
        .hint("Nothing is lost: the copy is made again when the model is used next.")
        .raise()
}
