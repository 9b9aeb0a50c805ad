//! Two ends on one device, which is none: see `fake`.

mod end;
mod fake;
mod hostile;
mod raw;
mod suite;
mod trouble;
