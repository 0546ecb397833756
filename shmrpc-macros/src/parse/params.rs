//! What a method of a service is called on, and its parameters.

use syn::{Lifetime, Pat, PatType, Receiver, ReceiverKind, Type, parse_quote};

use crate::errors::Errors;
use crate::model::{Param, ParamKind};
use crate::syntax::{is_number, is_str, last_segment, peel, type_arguments};

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
    } else if let Some(lifetime) = lifetime.filter(|lifetime| is_named(lifetime)) {
        errors.refuse(lifetime, "a method of a service names no lifetimes: write `&self`");
    }
}

/// Not `'_`.
fn is_named(lifetime: &Lifetime) -> bool {
    lifetime.ident != "_"
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
    Some(Param { name, kind: param_kind(ty, errors)?, written: (**ty).clone() })
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
    }
    if let Some(lifetime) = reference.lifetime.as_ref().filter(|lifetime| is_named(lifetime)) {
        errors.refuse(
            lifetime,
            "a method of a service names no lifetimes: its borrowed parameters live until it returns",
        );
    }
    let borrowed = peel(&reference.elem);
    match borrowed {
        Type::Slice(slice) if is_number(&slice.elem) => {
            return Some(ParamKind::Numbers((*slice.elem).clone()));
        }
        ty if is_str(ty) => return Some(ParamKind::Text),
        _ => {}
    }
    match last_segment(borrowed) {
        Some(last) if last.ident == "Context" && last.arguments.is_empty() => Some(ParamKind::Context),
        Some(last) if last.ident == "Archived" => {
            let [inner] = type_arguments(last)[..] else {
                errors.refuse(ty, "`Archived` takes the message's type: `&Archived<T>`");
                return None;
            };
            Some(ParamKind::Archived(inner.clone()))
        }
        _ => Some(ParamKind::Borrowed(borrowed.clone())),
    }
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
