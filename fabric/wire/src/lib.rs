//! What crosses a boundary: ids, keys, time, limits, errors, and the one codec.
//!
//! Everything here is plain data whose layout or meaning another process, another machine or a
//! stored file may rely on. Changing it is a wire or store change, whatever the compiler says.
//!
//! # Not here
//! Transports, decisions of any kind, user code, clocks.

mod codec;
mod entity_id;
mod error;
pub mod frame;
pub mod header;
mod ids;
mod key;
pub mod limits;
mod path;
mod time;
pub mod view;

pub use codec::{Codec, Encode, Malformed, Out, Rkyv, Serializer, Unwritten};
pub use entity_id::EntityId;
pub use error::{CallError, ErrorKind, Progress, Ran};
pub use ids::{
    Born, ChainId, ClassId, LinkId, MethodId, NodeId, SectionId, ShardId, Token, TypeId,
    bytes_hash, form_hash,
};
pub use key::{EntityKey, IntoKey, Key};
pub use path::Path;
pub use time::Time;
pub use {rkyv, uuid};
