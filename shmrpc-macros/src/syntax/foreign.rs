//! Types of the standard library that cannot be sent, and what is sent in their place. They are known by their names, which
//! messages of a user may have, too.

use quote::{ToTokens, format_ident, quote};
use syn::{Path, Type, parse_quote};

use super::{last_segment, mentions, peel, replaced};

/// What is sent in place of such a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Text.
    Path,
    /// Text that ends with a zero.
    CStr,
    /// A descriptor.
    Descriptor,
}

const NAMES: [(&str, Foreign); 12] = [
    ("Path", Foreign::Path),
    ("PathBuf", Foreign::Path),
    ("OsStr", Foreign::Path),
    ("OsString", Foreign::Path),
    ("CStr", Foreign::CStr),
    ("File", Foreign::Descriptor),
    ("TcpStream", Foreign::Descriptor),
    ("TcpListener", Foreign::Descriptor),
    ("UdpSocket", Foreign::Descriptor),
    ("UnixStream", Foreign::Descriptor),
    ("UnixListener", Foreign::Descriptor),
    ("UnixDatagram", Foreign::Descriptor),
];
/// Those without a size.
const SIZELESS: [&str; 3] = ["Path", "OsStr", "CStr"];
/// Good names for messages, so they are foreign only if their path says so.
const COMMON: [&str; 2] = ["Path", "File"];

/// Whether a type goes by one of the names.
pub(crate) fn foreign(ty: &Type) -> Option<Foreign> {
    let last = last_segment(ty).filter(|last| last.arguments.is_empty())?;
    NAMES.iter().find(|(name, _)| last.ident == name).map(|(_, foreign)| *foreign)
}

/// Whether it may be a user's own type that goes by such a name.
pub(crate) fn may_be_own(ty: &Type) -> bool {
    match peel(ty) {
        Type::Path(path) => {
            !is_of_std(&path.path)
                && last_segment(ty).is_some_and(|last| COMMON.iter().any(|name| last.ident == name))
        }
        _ => false,
    }
}

fn is_of_std(path: &Path) -> bool {
    path.segments.len() > 1
        && path.segments.first().is_some_and(|first| ["std", "core"].iter().any(|name| first.ident == name))
}

/// Whether a type of the standard library has no size, other than `str`.
pub(crate) fn is_sizeless(ty: &Type) -> bool {
    let is_named = |name: &&str| last_segment(ty).is_some_and(|last| last.ident == name);
    foreign(ty).is_some() && !may_be_own(ty) && SIZELESS.iter().any(is_named)
}

/// Whether it owns a descriptor.
pub(crate) fn owns_descriptor(ty: &Type) -> bool {
    foreign(ty) == Some(Foreign::Descriptor) && !may_be_own(ty)
}

/// What is sent in place of such a type that is referred to. Behind a reference, `Path` is hardly ever a user's own.
pub(crate) fn referred_instead(ty: &Type) -> Option<Type> {
    let name = match foreign(ty)? {
        Foreign::Path => "String",
        Foreign::CStr => "CString",
        Foreign::Descriptor if may_be_own(ty) => return None,
        Foreign::Descriptor => "OwnedFd",
    };
    let name = format_ident!("{name}");
    Some(parse_quote!(#name))
}

/// What is advised for a `written` type, such that the code around need not have imported it.
pub(crate) fn in_full(advised: &Type, written: &Type) -> Type {
    let tokens = replaced(advised.to_token_stream(), &|name| {
        let path = match name.to_string().as_str() {
            "CString" => quote!(::std::ffi::CString),
            "NonZeroU64" => quote!(::core::num::NonZeroU64),
            "NonZeroI64" => quote!(::core::num::NonZeroI64),
            _ => return None,
        };
        (!mentions(written.to_token_stream(), &[name])).then_some(path)
    });
    parse_quote!(#tokens)
}
