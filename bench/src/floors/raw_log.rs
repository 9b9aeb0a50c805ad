//! A log by hand: the same bytes, appended by one write and made durable by one `fdatasync`.
//!
//! Its blocks are there and were written before, as those of a log that is used again, so a sync writes no metadata.
//!
//! # Not here
//! Finding anything again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::case::{Failure, Round, Sample, made};
use crate::floors::raw_redb::{RECORD, fill};
use crate::ours::store::{Batch, Folder, longer};

/// After so many bytes the log begins again.
const LOG: usize = 64 << 20;

/// Records a second.
pub(crate) fn rate(batch: &Batch) -> impl FnMut(&Round) -> Result<Sample, Failure> + use<> {
    let batch = batch.clone();
    let mut log = None;
    move |round| {
        let (_, file) = made(&mut log, begin)?;
        let batch = batch.records()?;
        let mut bytes = Vec::with_capacity(batch as usize * RECORD);
        let (mut laps, mut version, mut at) = (longer(round).laps(), 0, 0);
        while laps.begin() {
            bytes.clear();
            version += 1;
            for _ in 0..batch {
                let mut record = [0; RECORD];
                fill(&mut record, version);
                bytes.extend_from_slice(&record);
            }
            if at + bytes.len() > LOG {
                at = 0;
            }
            file.write_all_at(&bytes, at as u64)?;
            file.sync_data()?;
            at += bytes.len();
            laps.end(batch);
        }
        laps.rate()
    }
}

fn begin() -> Result<(Folder, File), Failure> {
    let folder = Folder::new()?;
    let file = File::create_new(folder.file("log"))?;
    let zeros = vec![0; 1 << 20];
    for at in (0..LOG).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64)?;
    }
    file.sync_all()?;
    Ok((folder, file))
}
