//! What syntax says by itself: small questions that several steps ask.

mod foreign;

use std::fmt::Display;

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, GenericArgument, Ident, Item, Meta, Path, PathArguments, PathSegment, Token, Type, TypePath,
    parse_quote,
};

pub(crate) use foreign::{
    Foreign, foreign, in_full, is_sizeless, may_be_own, owns_descriptor, referred_instead,
};

/// The type itself, without parentheses and without the invisible groups that `macro_rules!` adds.
pub(crate) fn peel(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => peel(&group.elem),
        Type::Paren(paren) => peel(&paren.elem),
        other => other,
    }
}

/// The last segment of a type that is a plain path.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match peel(ty) {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        _ => None,
    }
}

/// The types in `<..>` after a segment.
pub(crate) fn type_arguments(segment: &PathSegment) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return Vec::new() };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// A part of a type, and what it has to be for the whole to be a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

/// What a part of a type has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Message,
    HashedKey,
    OrderedKey,
    Hasher,
}

impl Part {
    /// A type that is not taken apart.
    pub(crate) fn whole(ty: &Type) -> Self {
        Self { ty: peel(ty).clone(), role: Role::Message }
    }
}

/// What makes a type of the standard library a message: for `HashMap<String, Vec<u8>>`, the key `String` and `u8`. Any
/// other type is its own part.
pub(crate) fn parts(ty: &Type) -> Vec<Part> {
    // With what their arguments have to be. They may have a hasher besides.
    const CONTAINERS: [(&str, &[Role]); 14] = [
        ("Box", &[Role::Message]),
        ("Option", &[Role::Message]),
        ("Vec", &[Role::Message]),
        ("VecDeque", &[Role::Message]),
        ("Bound", &[Role::Message]),
        ("Result", &[Role::Message, Role::Message]),
        ("HashSet", &[Role::HashedKey]),
        ("HashMap", &[Role::HashedKey, Role::Message]),
        ("BTreeSet", &[Role::OrderedKey]),
        ("BTreeMap", &[Role::OrderedKey, Role::Message]),
        // Refused like a reference, and taken apart like one.
        ("Rc", &[Role::Message]),
        ("Arc", &[Role::Message]),
        ("Weak", &[Role::Message]),
        ("Cow", &[Role::Message]),
    ];
    match peel(ty) {
        Type::Tuple(tuple) if !tuple.elems.is_empty() => return tuple.elems.iter().flat_map(parts).collect(),
        Type::Array(array) => return parts(&array.elem),
        Type::Slice(slice) => return parts(&slice.elem),
        // It is refused, but what it refers to may have to be a message all the same.
        Type::Reference(reference) if referred_instead(&reference.elem).is_none() => {
            return parts(&reference.elem);
        }
        _ => {}
    }
    let whole = vec![Part::whole(ty)];
    let Some(last) = last_segment(ty) else { return whole };
    let arguments = type_arguments(last);
    let Some((_, roles)) = CONTAINERS.iter().find(|(name, _)| last.ident == name) else { return whole };
    // `Box<str>` is sent as a whole, since `str` has no size of its own; and of `Rc<Path>` it was told what to send instead.
    let is_shared = last.ident == "Cow" || SHARED.iter().any(|name| last.ident == name);
    let stands_for_other = |ty: &&Type| is_str(ty) || (is_shared && referred_instead(ty).is_some());
    if arguments.len() < roles.len() || arguments.iter().any(stands_for_other) {
        return whole;
    }
    let roles = roles.iter().chain(last.ident.to_string().starts_with("Hash").then_some(&Role::Hasher));
    let parts = roles.zip(arguments).flat_map(|(role, argument)| match role {
        Role::Message => parts(argument),
        other => vec![Part { ty: peel(argument).clone(), role: *other }],
    });
    parts.collect()
}

/// Types that are messages by their names.
pub(crate) fn is_known(ty: &Type) -> bool {
    const KNOWN: [&str; 17] = [
        "u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128", "f32", "f64", "bool", "char",
        "String", "CString", "Duration",
    ];
    match peel(ty) {
        Type::Path(path) => KNOWN.iter().any(|name| path.path.is_ident(name)),
        ty => is_unit(ty),
    }
}

/// A plain number: a slice of it is read where it arrived.
pub(crate) fn is_number(ty: &Type) -> bool {
    const NUMBERS: [&str; 10] = ["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"];
    matches!(peel(ty), Type::Path(path) if path.qself.is_none() && NUMBERS.iter().any(|name| path.path.is_ident(name)))
}

/// Numbers that cannot be keys.
pub(crate) fn is_float(ty: &Type) -> bool {
    matches!(peel(ty), Type::Path(path) if path.path.is_ident("f32") || path.path.is_ident("f64"))
}

/// Whether rkyv may write many of this type in one piece, as far as its spelling tells: it does not with what lies elsewhere.
pub(crate) fn may_be_copied(ty: &Type) -> bool {
    match peel(ty) {
        Type::Tuple(tuple) => tuple.elems.iter().all(may_be_copied),
        Type::Array(array) => may_be_copied(&array.elem),
        ty => last_segment(ty).is_some_and(|last| {
            last.arguments.is_empty() && last.ident != "String" && last.ident != "CString"
        }),
    }
}

/// The types that a type holds any number of, in a collection of its own or in one inside of it.
pub(crate) fn elements(ty: &Type) -> Vec<Type> {
    match peel(ty) {
        Type::Tuple(tuple) => return tuple.elems.iter().flat_map(elements).collect(),
        Type::Array(array) => return elements(&array.elem),
        Type::Slice(slice) => return [vec![(*slice.elem).clone()], elements(&slice.elem)].concat(),
        _ => {}
    }
    let Some(last) = last_segment(ty) else { return Vec::new() };
    let arguments = type_arguments(last);
    let one = ["Vec", "VecDeque", "HashSet", "BTreeSet"].iter().any(|name| last.ident == name);
    let two = ["HashMap", "BTreeMap"].iter().any(|name| last.ident == name);
    let own: Option<Type> = match arguments[..] {
        [element, ..] if one => Some(element.clone()),
        [key, value, ..] if two => Some(parse_quote!((#key, #value))),
        _ => None,
    };
    own.into_iter().chain(arguments.into_iter().flat_map(elements)).collect()
}

/// `()`.
pub(crate) fn is_unit(ty: &Type) -> bool {
    matches!(peel(ty), Type::Tuple(tuple) if tuple.elems.is_empty())
}

/// What to use instead of a type whose width differs between machines.
pub(crate) fn fixed_width(ident: &Ident) -> Option<&'static str> {
    const MACHINE_WORDS: [(&str, &str); 6] = [
        ("usize", "u64"),
        ("isize", "i64"),
        ("NonZeroUsize", "NonZeroU64"),
        ("NonZeroIsize", "NonZeroI64"),
        ("AtomicUsize", "u64"),
        ("AtomicIsize", "i64"),
    ];
    MACHINE_WORDS.iter().find(|(word, _)| ident == word).map(|(_, instead)| *instead)
}

/// Why such a type is refused: rkyv archives it as 32 bits, and says nothing.
pub(crate) fn cut_off(name: impl Display, instead: &str) -> String {
    format!("`{name}` would be cut to 32 bits on its way: use `{instead}`")
}

/// Whether a type is no name of the standard library that says what it is.
pub(crate) fn may_be_an_alias(ty: &Type) -> bool {
    last_segment(ty).is_some() && !is_known(ty) && parts(ty) == [Part::whole(ty)]
}

/// What shares its value inside one process.
pub(crate) const SHARED: [&str; 3] = ["Rc", "Arc", "Weak"];

/// What to write in place of a type some part of which is refused, as far as that is known: for `Option<&str>` that is
/// `Option<String>`, for `&Archived<T>` it is `T`, and for `Rc<usize>` it is `u64`.
pub(crate) fn instead(ty: &Type) -> Type {
    match peel(ty) {
        Type::Reference(reference) => value(&reference.elem),
        Type::Slice(slice) => {
            let elem = instead(&slice.elem);
            parse_quote!(Vec<#elem>)
        }
        ty if is_str(ty) => parse_quote!(String),
        Type::Path(path) => path_instead(path),
        Type::Tuple(tuple) => {
            let mut tuple = tuple.clone();
            tuple.elems.iter_mut().for_each(|elem| *elem = instead(elem));
            Type::Tuple(tuple)
        }
        Type::Array(array) => {
            let mut array = array.clone();
            *array.elem = instead(&array.elem);
            Type::Array(array)
        }
        other => other.clone(),
    }
}

fn path_instead(path: &TypePath) -> Type {
    let path = path.clone();
    let last = path.path.segments.last().filter(|_| path.qself.is_none());
    let is = |name: &str| last.is_some_and(|last| last.ident == name);
    let inner = last.map(type_arguments).unwrap_or_default();
    let itself = Type::Path(path.clone());
    let is_path_buf = is("PathBuf") || is("OsString");
    if let Some(sent) = referred_instead(&itself).filter(|_| is_path_buf || is_sizeless(&itself)) {
        return sent;
    }
    if let Some(word) = last.and_then(|last| fixed_width(&last.ident)) {
        let word = format_ident!("{word}");
        return parse_quote!(#word);
    }
    match inner[..] {
        [inner] if is("Cow") || SHARED.iter().any(|name| is(name)) => return value(inner),
        // It may hold what has no size of its own.
        [inner] if is("Box") && is_str(inner) => return itself,
        [inner] if is("Box") && is_sizeless(inner) => return value(inner),
        [inner] if is("Box") => {
            if let Type::Slice(slice) = peel(inner) {
                let elem = instead(&slice.elem);
                return parse_quote!(Box<[#elem]>);
            }
        }
        _ => {}
    }
    let mut ty = itself;
    each_argument(&mut ty, |ty| *ty = instead(ty));
    ty
}

/// Visits the types in `<..>` of a path.
pub(crate) fn each_argument(ty: &mut Type, mut visit: impl FnMut(&mut Type)) {
    let path = match ty {
        Type::Group(group) => return each_argument(&mut group.elem, visit),
        Type::Paren(paren) => return each_argument(&mut paren.elem, visit),
        Type::Path(path) => path,
        _ => return,
    };
    let arguments = path.path.segments.iter_mut().filter_map(|segment| match &mut segment.arguments {
        PathArguments::AngleBracketed(arguments) => Some(&mut arguments.args),
        _ => None,
    });
    for argument in arguments.flatten() {
        if let GenericArgument::Type(ty) = argument {
            visit(ty);
        }
    }
}

/// What is sent of something that is referred to.
pub(crate) fn value(ty: &Type) -> Type {
    if let Some(sent) = referred_instead(ty) {
        return sent;
    }
    match last_segment(ty) {
        Some(last) if last.ident == "Archived" => {
            type_arguments(last).first().map_or(ty.clone(), |ty| value(ty))
        }
        _ => instead(ty),
    }
}

/// `str`, by whatever path. It has no size of its own.
pub(crate) fn is_str(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|last| last.ident == "str" && last.arguments.is_empty())
}

/// Whether a type is the message `name` that it is part of.
pub(crate) fn is_own(ty: &TypePath, name: &Ident) -> bool {
    let segments = &ty.path.segments;
    let is_own = |segment: &PathSegment| segment.ident == *name || segment.ident == "Self";
    ty.qself.is_none() && segments.len() == 1 && segments.first().is_some_and(is_own)
}

/// Visits where the message `name` holds itself with nothing between that lies elsewhere, so that it would have no end.
pub(crate) fn each_endless(ty: &mut Type, name: &Ident, visit: &mut dyn FnMut(&mut Type)) {
    match ty {
        Type::Group(group) => each_endless(&mut group.elem, name, visit),
        Type::Paren(paren) => each_endless(&mut paren.elem, name, visit),
        Type::Tuple(tuple) => tuple.elems.iter_mut().for_each(|elem| each_endless(elem, name, visit)),
        Type::Array(array) => each_endless(&mut array.elem, name, visit),
        Type::Path(path) if is_own(path, name) => visit(ty),
        Type::Path(path) if path.qself.is_none() => {
            let Some(last) = path.path.segments.last_mut() else { return };
            let PathArguments::AngleBracketed(arguments) = &mut last.arguments else { return };
            if last.ident == "Option" || last.ident == "Result" {
                for argument in &mut arguments.args {
                    if let GenericArgument::Type(ty) = argument {
                        each_endless(ty, name, visit);
                    }
                }
            }
        }
        _ => {}
    }
}

/// Tokens as text, for a message.
pub(crate) fn text(tokens: impl ToTokens) -> String {
    const CLOSE: [(&str, &str); 8] = [
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ::", "::"),
        (":: ", "::"),
        (" ,", ","),
        (" ;", ";"),
        ("& ", "&"),
    ];
    let spaced = tokens.into_token_stream().to_string();
    let written = CLOSE.iter().fold(spaced, |text, (apart, close)| text.replace(apart, close));
    written.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The span of the last token. From the first one to here, rustc shows the whole.
pub(crate) fn end(tokens: impl ToTokens) -> Span {
    let tokens = tokens.into_token_stream();
    let whole = tokens.span();
    tokens.into_iter().last().map_or(whole, |token| match token {
        TokenTree::Group(group) => group.span_close(),
        other => other.span(),
    })
}

/// A type that stands for a `written` one, so that rustc shows that one.
pub(crate) fn in_place_of(written: &Type, ty: &Type) -> Type {
    let mut tokens: Vec<TokenTree> = ty.to_token_stream().into_iter().collect();
    tokens.iter_mut().for_each(|token| token.set_span(written.span()));
    if let [_, .., last] = &mut tokens[..] {
        last.set_span(end(written));
    }
    parse_quote!(#(#tokens)*)
}

/// Whether an attribute is `#[cfg_attr(.., name)]`: what that makes of itself cannot be seen here.
pub(crate) fn hides(attr: &Attribute, name: &str) -> bool {
    let Meta::List(list) = &attr.meta else { return false };
    // The first name that counts stands behind the condition.
    let mut tokens = list.tokens.clone().into_iter().skip_while(|token| token.to_string() != ",");
    list.path.is_ident("cfg_attr") && tokens.any(|token| token.to_string() == name)
}

/// Whether any of `names` occurs in `tokens`.
pub(crate) fn mentions(tokens: TokenStream, names: &[&Ident]) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.iter().any(|name| **name == ident),
        TokenTree::Group(group) => mentions(group.stream(), names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// The tokens with others in the place of some names.
pub(crate) fn replaced(tokens: TokenStream, instead: &dyn Fn(&Ident) -> Option<TokenStream>) -> TokenStream {
    let each = tokens.into_iter().map(|token| match token {
        TokenTree::Ident(ident) => instead(&ident).unwrap_or_else(|| ident.into_token_stream()),
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), replaced(group.stream(), instead));
            inner.set_span(group.span());
            inner.into_token_stream()
        }
        token => token.into_token_stream(),
    });
    each.collect()
}

/// A type's name that occurs nowhere in the item: types have no hygiene.
pub(crate) fn fresh(name: &str, item: &impl ToTokens) -> Ident {
    let mut name = Ident::new(name, Span::mixed_site());
    while mentions(item.to_token_stream(), &[&name]) {
        name = format_ident!("{name}_");
    }
    name
}

/// The name on the wire of an identifier: without `r#`.
pub(crate) fn wire_name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// The first of rkyv's derives in a `#[derive(..)]`.
pub(crate) fn rkyv_derive(attr: &Attribute) -> Option<Path> {
    if !attr.path().is_ident("derive") {
        return None;
    }
    let derives = attr.parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated).ok()?;
    derives.into_iter().find(is_rkyv)
}

/// Whether a derive is one of rkyv's.
pub(crate) fn is_rkyv(path: &Path) -> bool {
    let of_rkyv = path.segments.len() > 1 && path.segments.first().is_some_and(|first| first.ident == "rkyv");
    of_rkyv || path.is_ident("Archive")
}

/// The tokens that name an item: where a mistake about the whole item is shown.
pub(crate) fn head(item: &Item) -> TokenStream {
    match item {
        Item::Fn(item) => item.sig.ident.to_token_stream(),
        Item::Struct(item) => item.ident.to_token_stream(),
        Item::Enum(item) => item.ident.to_token_stream(),
        Item::Union(item) => item.ident.to_token_stream(),
        Item::Trait(item) => item.ident.to_token_stream(),
        Item::TraitAlias(item) => item.ident.to_token_stream(),
        Item::Type(item) => item.ident.to_token_stream(),
        Item::Mod(item) => item.ident.to_token_stream(),
        Item::Const(item) => item.ident.to_token_stream(),
        Item::Static(item) => item.ident.to_token_stream(),
        Item::Impl(item) => item.self_ty.to_token_stream(),
        other => other.to_token_stream(),
    }
}
