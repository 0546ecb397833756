//! References that a service does not take, and what to take instead.

use syn::{PathArguments, PathSegment, Type, parse_quote};

use crate::check::types::{Place, Types, is_fine_in};
use crate::errors::Errors;
use crate::syntax::{
    fixed_width, instead, is_number, last_segment, may_be_an_alias, peel, text, type_arguments, value,
};

/// Refuses the parameter `&borrowed`, and also what would still be refused of it without the reference.
pub(super) fn refuse(written: &Type, borrowed: &Type, errors: &Errors) {
    let types = Types::new(Place::Parameter(borrowed), errors);
    if let Type::Reference(reference) = borrowed {
        return refuse_twice(written, peel(&reference.elem), errors);
    }
    if let Type::Slice(slice) = borrowed
        && last_segment(&slice.elem).is_some_and(|last| fixed_width(&last.ident).is_some())
        && is_number(&instead(&slice.elem))
    {
        // `&[usize]` is refused for its numbers alone.
        return types.check(&slice.elem);
    }
    let advice = match (borrowed, last_segment(borrowed)) {
        (Type::Slice(slice), _) => of_slice(&slice.elem),
        (_, Some(last)) if last.ident == "Blob" => {
            let (advice, numbers) = of_blob(borrowed, last);
            numbers.into_iter().for_each(|number| types.check(number));
            return errors.refuse(written, advice);
        }
        (_, Some(last)) if last.ident == "OwnedFd" => {
            let advice = "it is moved to the other process, and closed here";
            return errors.refuse(written, format!("take `{}`: {advice}", text(borrowed)));
        }
        _ => of_value(borrowed),
    };
    types.inside(advice.is_some()).held(borrowed);
    errors.refuse(
        written,
        advice.unwrap_or_else(|| {
            "only `&str`, slices of plain numbers, `&Archived<T>` and `&Context` are borrowed: take anything else by value"
                .to_owned()
        }),
    );
}

/// Refuses `&Blob` and `&OwnedFd` as a result, and says whether it is one. Both are results of their own without the reference.
pub(super) fn refuse_result(ty: &Type, errors: &Errors) -> bool {
    let Type::Reference(reference) = peel(ty) else { return false };
    let Some(last) = last_segment(&reference.elem) else { return false };
    let is_one = match type_arguments(last)[..] {
        [] => last.ident == "Blob" || last.ident == "OwnedFd",
        [number] => last.ident == "Blob" && is_number(number),
        _ => false,
    };
    if is_one {
        errors.refuse(ty, format!("a result is owned: return `{}`", text(&reference.elem)));
    }
    is_one
}

/// `&&T`.
fn refuse_twice(written: &Type, borrowed: &Type, errors: &Errors) {
    let types = Types::new(Place::Parameter(borrowed), errors);
    let advice = |taken: Type| format!("one reference is enough: take `&{}`", text(taken));
    let last = last_segment(borrowed);
    let advice = match (borrowed, last.map(type_arguments).as_deref()) {
        (Type::Slice(slice), _) if is_number(&instead(&slice.elem)) => {
            let number = instead(&slice.elem);
            types.check(&slice.elem);
            advice(parse_quote!([#number]))
        }
        (Type::Path(path), _) if path.path.is_ident("str") => advice(borrowed.clone()),
        (_, Some([])) if last.is_some_and(|last| last.ident == "Context") => advice(borrowed.clone()),
        (_, Some([inner])) if last.is_some_and(|last| last.ident == "Archived") => {
            types.check(inner);
            match accepted(value(inner)) {
                Some(inner) => advice(parse_quote!(Archived<#inner>)),
                None => "one reference is enough".to_owned(),
            }
        }
        _ => return refuse(written, borrowed, errors),
    };
    errors.refuse(written, advice);
}

/// A type to advise, if it is not refused itself.
fn accepted(ty: Type) -> Option<Type> {
    is_fine_in(Place::Parameter(&ty), &ty).then_some(ty)
}

/// What to take instead of `&[T]`, if it is known and would be accepted.
fn of_slice(elem: &Type) -> Option<String> {
    let sent = instead(elem);
    if is_number(&sent) {
        return Some(format!("take `&[{}]`: it is read where it arrived", text(sent)));
    }
    let list = text(accepted(parse_quote!(Vec<#sent>))?);
    Some(match peel(elem) {
        Type::Reference(inner) if last_segment(&inner.elem).is_some_and(|last| last.ident == "Archived") => {
            format!("an archive is read as a whole: take `&Archived<{list}>`")
        }
        Type::Reference(_) => format!("no references inside a parameter: use `{list}`"),
        _ => format!(
            "only slices of plain numbers (u8 to u64, i8 to i64, f32, f64) are read where they arrived: \
             take `{list}`, or `&Archived<{list}>`"
        ),
    })
}

/// What to take instead of `&Blob<T>`, and the `T` to look at.
fn of_blob<'a>(borrowed: &Type, last: &'a PathSegment) -> (String, Option<&'a Type>) {
    let lent = || format!("take `{}`: it is lent, and read where it arrived", text(instead(borrowed)));
    match (&last.arguments, &type_arguments(last)[..]) {
        (PathArguments::None, _) => (lent(), None),
        (_, [number]) if is_number(&instead(number)) => (lent(), Some(number)),
        _ => {
            let advice = "a blob is taken by value, and holds plain numbers (u8 to u64, i8 to i64, f32, f64): `Blob<f32>`; \
                `Blob` is one of bytes";
            (advice.to_owned(), None)
        }
    }
}

/// What to take instead of any other `&T`, if it is known and would be accepted.
fn of_value(borrowed: &Type) -> Option<String> {
    let sent = accepted(instead(borrowed))?;
    let known = last_segment(&sent).and_then(|last| match (&last.ident, &type_arguments(last)[..]) {
        (ident, []) if ident == "String" => Some("take `&str`: it is read where it arrived".to_owned()),
        (ident, []) if ["Path", "PathBuf", "OsStr", "OsString"].iter().any(|name| ident == name) => {
            Some("a path is sent as text: take `&str`, or `&[u8]` if it may not be UTF-8".to_owned())
        }
        (ident, [elem]) if ident == "Vec" && is_number(elem) => {
            Some(format!("take `&[{}]`: it is read where it arrived", text(elem)))
        }
        _ => None,
    });
    known.or_else(|| {
        let alias = last_segment(borrowed).filter(|_| sent == *borrowed && may_be_an_alias(borrowed)).map_or(String::new(), |last| {
            format!(
                "; if `{}` is another name of `Context`, `Archived` or `str`, write that one: only names are seen here",
                last.ident
            )
        });
        let sent = text(&sent);
        Some(format!("take `{sent}`, or `&Archived<{sent}>` to read it where it arrived{alias}"))
    })
}
