//! What a method of a service is called on, and its parameters.

use syn::{Lifetime, Pat, PatType, Path, Receiver, ReceiverKind, Type, parse_quote};

use crate::errors::Errors;
use crate::model::{Param, ParamKind};
use crate::syntax::{
    Part, cut_off, fixed_width, is_known, last_segment, owned, parts, peel, text, type_arguments,
};

/// What a service is called on: `&self`.
pub(super) fn refuse_receiver(receiver: &Receiver, errors: &Errors) {
    if let Some(attr) = receiver.attrs.first() {
        errors.refuse(attr, "attributes on parameters are not supported in a service");
    }
    match &receiver.kind {
        ReceiverKind::Reference(_, lifetime, mutable) => {
            refuse_borrow(receiver, lifetime.as_ref(), mutable.is_some(), errors);
        }
        ReceiverKind::Typed(_, ty) => match peel(ty) {
            // Another spelling of `&self`.
            Type::Reference(reference) if is_self(&reference.elem) => {
                let mutable = reference.mutability.is_some();
                refuse_borrow(receiver, reference.lifetime.as_ref(), mutable, errors);
            }
            _ => errors.refuse(
                receiver,
                "a service is shared by all its callers, and the server holds it: take `&self`",
            ),
        },
        _ => errors.refuse(receiver, "a service outlives its calls: take `&self`"),
    }
}

fn refuse_borrow(receiver: &Receiver, lifetime: Option<&Lifetime>, mutable: bool, errors: &Errors) {
    if mutable {
        errors.refuse(
            receiver,
            "a service is shared by all its callers: take `&self`, and keep \
        what changes in a Mutex or in atomics",
        );
    } else if let Some(lifetime) = lifetime {
        errors.refuse(lifetime, "a method of a service names no lifetimes: write `&self`");
    }
}

fn is_self(ty: &Type) -> bool {
    matches!(peel(ty), Type::Path(path) if path.path.is_ident("Self"))
}

/// One parameter after `&self`.
pub(super) fn param(typed: &PatType, errors: &Errors) -> Option<Param> {
    let PatType { attrs, pat, colon_token: _, ty } = typed;
    if let Some(attr) = attrs.first() {
        errors.refuse(attr, "attributes on parameters are not supported in a service");
    }
    let name = match &**pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => Some(pat.ident.clone()),
        Pat::Wild(wild) => {
            errors.refuse(wild, "give this parameter a name: the client's method shows it");
            None
        }
        other => {
            errors.refuse(
                other,
                "a parameter of a service is a plain name: take it apart in the method's body",
            );
            None
        }
    };
    let kind = param_kind(ty, errors);
    Some(Param { name: name?, kind: kind?, written: (**ty).clone() })
}

fn param_kind(ty: &Type, errors: &Errors) -> Option<ParamKind> {
    let Type::Reference(reference) = peel(ty) else {
        if is_descriptor(ty) {
            return Some(ParamKind::Descriptor(0));
        }
        return match blob(ty, errors) {
            None => Some(ParamKind::Owned),
            Some(number) => number.map(ParamKind::Blob),
        };
    };
    if let Some(token) = &reference.mutability {
        errors.refuse(
            token,
            "a parameter of a service cannot be written through: the caller is \
        another process; return the new value instead",
        );
        return None;
    }
    if let Some(lifetime) = &reference.lifetime {
        errors.refuse(
            lifetime,
            "a method of a service names no lifetimes: its borrowed parameters live until it returns",
        );
        return None;
    }
    match peel(&reference.elem) {
        Type::Slice(slice) => slice_of(ty, &slice.elem, errors),
        Type::Path(path) if path.qself.is_none() => reference_to(ty, &path.path, errors),
        Type::Reference(_) => {
            errors.refuse(ty, "one reference is enough: `&str`, `&[u8]`, `&Archived<T>` or `&Context`");
            None
        }
        Type::TraitObject(_) => {
            errors.refuse(ty, "a trait object cannot be sent to another process: name a message");
            None
        }
        Type::ImplTrait(_) => {
            errors.refuse(ty, "`impl Trait` does not say what is sent: name a message");
            None
        }
        other => {
            let other = text(other);
            errors.refuse(ty, format!("take `{other}`, or `&Archived<{other}>` to read it where it arrived"));
            None
        }
    }
}

/// `&[T]`, of plain numbers.
fn slice_of(ty: &Type, elem: &Type, errors: &Errors) -> Option<ParamKind> {
    if is_number(elem) {
        return Some(ParamKind::Numbers(elem.clone()));
    }
    if let Type::Reference(inner) = peel(elem) {
        let list = text(owned(ty));
        let archives = last_segment(&inner.elem).is_some_and(|last| last.ident == "Archived");
        errors.refuse(
            ty,
            match archives {
                true => format!("an archive is read as a whole: take `&Archived<{list}>`"),
                false => format!("no references inside a parameter: use `{list}`"),
            },
        );
        return None;
    }
    // `&[usize]` is refused for its numbers, as everywhere.
    if let Some(instead) = last_segment(elem).and_then(|last| fixed_width(&last.ident)) {
        errors.refuse(elem, cut_off(text(elem), instead));
        return None;
    }
    errors.refuse(
        ty,
        format!(
            "only slices of plain numbers (u8 to u64, i8 to i64, f32, f64) are read where they arrived: \
             take `Vec<{0}>`, or `&Archived<Vec<{0}>>`",
            text(elem)
        ),
    );
    None
}

/// `&Path`: one of the references that a service may take.
fn reference_to(ty: &Type, path: &Path, errors: &Errors) -> Option<ParamKind> {
    let last = path.segments.last()?;
    if path.is_ident("str") {
        return Some(ParamKind::Text);
    }
    if last.ident == "Context" && last.arguments.is_empty() {
        return Some(ParamKind::Context);
    }
    if last.ident == "Archived" {
        let [inner] = type_arguments(last)[..] else {
            errors.refuse(ty, "`Archived` takes the message's type: `&Archived<T>`");
            return None;
        };
        return Some(ParamKind::Archived(inner.clone()));
    }
    let hint = match (&last.ident, &type_arguments(last)[..]) {
        (ident, _) if ident == "Blob" => {
            format!("take `{}`: it is lent, and read where it arrived", text(path))
        }
        (ident, _) if ident == "OwnedFd" => {
            format!("take `{}`: it is moved to the other process, and closed here", text(path))
        }
        (ident, []) if ident == "String" => "take `&str`: it is read where it arrived".to_owned(),
        (ident, []) if ["Path", "PathBuf", "OsStr", "OsString"].iter().any(|name| ident == name) => {
            "a path is sent as text: take `&str`, or `&[u8]` if it may not be UTF-8".to_owned()
        }
        (ident, [elem]) if ident == "Vec" && is_number(elem) => {
            format!("take `&[{}]`: it is read where it arrived", text(elem))
        }
        (ident, _) => {
            let alias = match may_be_an_alias(path) {
                true => format!(
                    "; if `{ident}` is another name of `Context`, `Archived` or `str`, write that one: \
                     only names are seen here"
                ),
                false => String::new(),
            };
            let path = text(path);
            format!("take `{path}`, or `&Archived<{path}>` to read it where it arrived{alias}")
        }
    };
    errors.refuse(ty, hint);
    None
}

/// Whether it is no name of the standard library that says what it is.
fn may_be_an_alias(path: &Path) -> bool {
    let ty = parse_quote!(#path);
    !is_known(&ty) && parts(&ty) == [Part::whole(&ty)]
}

/// The numbers of a `Blob`, if it is one; `None` inside if they are none.
pub(super) fn blob(ty: &Type, errors: &Errors) -> Option<Option<Type>> {
    let last = last_segment(ty).filter(|last| last.ident == "Blob")?;
    match type_arguments(last)[..] {
        [] if last.arguments.is_empty() => Some(Some(parse_quote!(u8))),
        [number] if is_number(number) => Some(Some(number.clone())),
        _ => {
            errors.refuse(ty, "a blob holds plain numbers (u8 to u64, i8 to i64, f32, f64): `Blob<f32>`; `Blob` is one of bytes");
            Some(None)
        }
    }
}

/// `OwnedFd`, by whatever path.
pub(super) fn is_descriptor(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|last| last.ident == "OwnedFd" && last.arguments.is_empty())
}

/// A plain number: a slice of it is read where it arrived.
fn is_number(ty: &Type) -> bool {
    const NUMBERS: [&str; 10] = ["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"];
    matches!(peel(ty), Type::Path(path) if path.qself.is_none() && NUMBERS.iter().any(|name| path.path.is_ident(name)))
}
