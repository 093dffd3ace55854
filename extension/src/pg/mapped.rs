//! A file of the data directory, mapped read-only for the rest of the process.

use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;

/// Maps the whole file; its bytes stay mapped until the process ends, also once the file is gone.
///
/// Only for files that nobody shortens: the extension's own, written once under another name and
/// renamed. Models stay open as long as their backend, so nothing is ever unmapped.
pub fn map_for_ever(file: &File) -> io::Result<&'static [u8]> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let Some(size) = NonZeroUsize::new(length) else { return Ok(&[]) };
    // SAFETY: a fresh read-only mapping at an address of the kernel's choice, as long as the file,
    // which stays as long as it is (see above), so that every byte can be read.
    unsafe {
        let start = mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0)?;
        Ok(std::slice::from_raw_parts(start.as_ptr().cast::<u8>(), length))
    }
}
