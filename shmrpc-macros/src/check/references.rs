//! References that a service does not take, and what to take instead.

use syn::{PathArguments, PathSegment, Type, parse_quote};

use crate::check::types::{Place, Types, holds_descriptor, if_own, is_fine_in};
use crate::errors::Errors;
use crate::syntax::{
    Foreign, fixed_width, foreign, instead, is_number, is_str, last_segment, may_be_an_alias, may_be_own,
    owns_descriptor, peel, text, type_arguments, value,
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
        (_, Some(last)) if last.ident == "OwnedFd" || owns_descriptor(borrowed) => {
            let advice = "it is moved to the other process, and closed here";
            return errors.refuse(written, format!("take `{}`: {advice}", descriptor(borrowed)));
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
        [] => last.ident == "Blob" || last.ident == "OwnedFd" || owns_descriptor(&reference.elem),
        [number] => last.ident == "Blob" && is_number(number),
        _ => false,
    };
    if is_one {
        errors.refuse(ty, format!("a result is owned: return `{}`", descriptor(&reference.elem)));
    }
    is_one
}

/// What is sent for what owns a descriptor, and any other type as it is.
fn descriptor(ty: &Type) -> String {
    if owns_descriptor(ty) { "OwnedFd".to_owned() } else { text(ty) }
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
        (ty, _) if is_str(ty) => advice(borrowed.clone()),
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
    (is_fine_in(Place::Parameter(&ty), &ty) && !holds_descriptor(&ty)).then_some(ty)
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
    if foreign(borrowed) == Some(Foreign::Path) {
        let advice = "a path is sent as text: take `&str`, or `&[u8]` if it may not be UTF-8".to_owned();
        return Some(advice + &if_own(borrowed));
    }
    let sent = accepted(instead(borrowed))?;
    let known = last_segment(&sent).and_then(|last| match (&last.ident, &type_arguments(last)[..]) {
        (ident, []) if ident == "String" => Some("take `&str`: it is read where it arrived".to_owned()),
        (ident, [elem]) if ident == "Vec" && is_number(elem) => {
            Some(format!("take `&[{}]`: it is read where it arrived", text(elem)))
        }
        _ => None,
    });
    known.or_else(|| {
        let may_be_open = foreign(borrowed) == Some(Foreign::Descriptor) && may_be_own(borrowed);
        if may_be_open {
            let sent = text(&sent);
            return Some(format!("take `{sent}`, or `&Archived<{sent}>`; if it is an open file, take an `OwnedFd`"));
        }
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

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;
    use quote::quote;

    use super::*;
    use crate::{args, check, parse};

    #[test]
    fn what_to_take_instead_is_said_where_it_is_known() {
        const REFUSED: [&str; 30] = [
            "&usize",
            "&std::num::NonZeroUsize",
            "&Vec<usize>",
            "&Vec<&usize>",
            "&Option<Vec<isize>>",
            "&(u8, Rc<[usize]>)",
            "&[usize; 4]",
            "&Rc<u8>",
            "&Arc<str>",
            "&Arc<[u8]>",
            "&Weak<Arc<Entry>>",
            "&Cow<'static, str>",
            "&Cow<'static, [Rc<u8>]>",
            "&Box<Rc<str>>",
            "&HashMap<&str, Cow<'static, [&str]>>",
            "&[Rc<usize>]",
            "&[&usize]",
            "&[NonZeroUsize]",
            "&[&[&str]]",
            "&[&Archived<usize>]",
            "&[(Arc<str>, &Archived<Rc<Entry>>)]",
            "&&str",
            "&&&Context",
            "&&[usize]",
            "&&Archived<&str>",
            "&&Archived<[usize]>",
            "&Blob<usize>",
            "&OwnedFd",
            "&Path",
            "&Vec<&Archived<Rc<usize>>>",
        ];
        const NOTHING_IS_KNOWN: [&str; 8] = [
            "&Self",
            "&Vec<()>",
            "&[Self]",
            "&Option<Context>",
            "&IndexMap<u8, u8>",
            "&Box<dyn Send>",
            "&&Archived<Self>",
            "Vec<&fn()>",
        ];
        for ty in REFUSED {
            assert!(!advised("parameter", ty).is_empty(), "{ty}: {:?}", refused("parameter", ty));
        }
        for ty in NOTHING_IS_KNOWN {
            let errors = refused("parameter", ty);
            assert!(!errors.is_empty() && advised("parameter", ty).is_empty(), "{ty}: {errors:?}");
        }
    }

    /// Whoever writes what an error says is not refused again.
    #[test]
    fn what_is_advised_is_accepted() {
        const INNER: [&str; 31] = [
            "u8",
            "usize",
            "NonZeroUsize",
            "str",
            "()",
            "Self",
            "Entry",
            "dyn Send",
            "fn()",
            "!",
            "Context",
            "Blob",
            "Blob<usize>",
            "BlobMut",
            "OwnedFd",
            "Path",
            "Archived",
            "IndexMap<u8, usize>",
            "PhantomData<u8>",
            "<&Archived<u8> as Trait>::Type",
            "std::path::Path",
            "PathBuf",
            "OsStr",
            "CStr",
            "core::ffi::CStr",
            "File",
            "std::fs::File",
            "TcpStream",
            "std::os::unix::net::UnixListener",
            "RawFd",
            "Wrapping<usize>",
        ];
        const AROUND: [&str; 15] = [
            "&_",
            "&'static _",
            "Vec<_>",
            "Option<_>",
            "Box<_>",
            "Rc<_>",
            "Cow<'static, _>",
            "Archived<_>",
            "View<_>",
            "[_]",
            "[_; 2]",
            "(_, u8)",
            "HashMap<u8, _>",
            "Result<_, u8>",
            "IndexSet<_>",
        ];
        let mut tried = INNER.map(str::to_owned).to_vec();
        for _ in 0..2 {
            let all = tried.iter().flat_map(|ty| AROUND.map(|around| around.replace('_', ty)));
            tried = all.chain(INNER.map(str::to_owned)).collect();
        }
        for place in ["parameter", "result", "field"] {
            for ty in &tried {
                for one in advised(place, ty) {
                    let again = refused(place, &one);
                    assert!(again.is_empty(), "{place} {ty}: {one}: {again:?}");
                    let names = syn::parse_str(&one).is_ok_and(|one: Type| holds_descriptor(&one));
                    assert!(!names, "{place} {ty}: {one}: rustc says that it is no message");
                }
            }
        }
    }

    /// "take `A`, or `B` if ..", "use `A`", "return `A`": types to write in place of a whole one.
    fn advised(place: &str, ty: &str) -> Vec<String> {
        // What is put around a type, or is a part of it.
        const PARTS: [&str; 4] = ["BTreeMap", "BTreeSet", "T", "Vec"];
        let errors = refused(place, ty);
        let errors = errors
            .iter()
            .filter(|error| !error.contains("would be cut") && !error.contains("as a parameter"));
        let said = errors.filter_map(|error| {
            ["take `", "use `", "return `"].iter().find_map(|word| error.split_once(word))
        });
        let types = said.flat_map(|(_, said)| match said.split('`').collect::<Vec<_>>()[..] {
            [one, ", or ", other, ..] => vec![one, other],
            [one, ..] => vec![one],
            [] => Vec::new(),
        });
        types.filter(|ty| !PARTS.contains(ty) && !ty.contains("..")).map(str::to_owned).collect()
    }

    fn refused(place: &str, ty: &str) -> Vec<String> {
        let (errors, ty): (_, TokenStream) = (Errors::new(), ty.parse().unwrap());
        let args = args::service(TokenStream::new(), &errors);
        match place {
            "field" => {
                let args = args::Args { recursive: true, ..args };
                let message = parse::message(args, quote!(struct Tried { it: #ty }), &errors);
                check::message(&message.unwrap(), &errors);
            }
            place => {
                let method = match place {
                    "result" => quote!(fn take(&self) -> #ty;),
                    _ => quote!(fn take(&self, it: #ty);),
                };
                let service = parse::service(args, quote!(trait Tried { #method }), &errors);
                check::service(&service.unwrap(), &errors);
            }
        }
        errors.finish().err().into_iter().flatten().map(|error| error.to_string()).collect()
    }
}
