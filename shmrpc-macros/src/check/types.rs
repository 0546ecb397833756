//! Which types may travel, as far as their spelling tells. What it does not tell, the trait `Schema` decides.

use quote::ToTokens;
use syn::{GenericArgument, Ident, Path, PathArguments, PathSegment, Type, TypeReference, parse_quote};

use crate::errors::Errors;
use crate::syntax::{
    Foreign, SHARED, cut_off, each_endless, fixed_width, foreign, instead, is_own, is_sizeless, is_str,
    is_unit, last_segment, may_be_own, owns_descriptor, parts, peel, referred_instead, text, type_arguments,
};

/// Where a type stands, which decides what to do about a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// With the whole of what is sent for the parameter.
    Parameter(&'a Type),
    Result,
    /// Of the message of this name.
    Field(&'a Ident),
}

/// The rules for types in one place.
#[derive(Debug)]
pub(super) struct Types<'a> {
    place: Place<'a>,
    errors: &'a Errors,
    /// Whether it was said what to write in place of something around, without any reference.
    said: bool,
}

const INDEXED: [(&str, &str); 2] =
    [("IndexMap", "`BTreeMap`, or a `Vec` of pairs"), ("IndexSet", "`BTreeSet`, or a `Vec`")];
const LATER: [&str; 1] = ["Streaming"];
/// What names an open file in one process only.
const DESCRIPTORS: [&str; 3] = ["OwnedFd", "BorrowedFd", "RawFd"];
/// Types whose first argument is held any number of times.
const COLLECTIONS: [&str; 6] = ["Vec", "VecDeque", "HashMap", "HashSet", "BTreeMap", "BTreeSet"];
const LONGEST_TUPLE: usize = 12;

/// Whether the rules have nothing to say against a type; rustc may have.
pub(super) fn is_fine_in(place: Place<'_>, ty: &Type) -> bool {
    let errors = Errors::new();
    Types::new(place, &errors).check(ty);
    errors.finish().is_ok()
}

impl<'a> Types<'a> {
    pub(super) fn new(place: Place<'a>, errors: &'a Errors) -> Self {
        Self { place, errors, said: false }
    }

    /// The same inside of something that was refused, if it was `said` what to write in its place.
    pub(super) fn inside(&self, said: bool) -> Self {
        Self { place: self.place, errors: self.errors, said: self.said || said }
    }

    /// Checks a type and all types in it.
    pub(super) fn check(&self, ty: &Type) {
        match peel(ty) {
            Type::Path(path) => {
                if let Some(qself) = &path.qself {
                    self.check(&qself.ty);
                }
                self.path(ty, &path.path);
            }
            Type::Tuple(tuple) => {
                if let Some(extra) = tuple.elems.iter().nth(LONGEST_TUPLE) {
                    self.refuse(
                        extra,
                        format!(
                            "a tuple sends at most {LONGEST_TUPLE} fields: make it a \
        struct with `#[shmrpc::message]`"
                        ),
                    );
                }
                tuple.elems.iter().for_each(|elem| self.check(elem));
            }
            Type::Array(array) => self.check(&array.elem),
            Type::Slice(_) => {
                self.refuse(
                    ty,
                    match self.accepted(instead(ty)) {
                        Some(list) => format!("a slice has no size of its own: use `{list}`"),
                        None => "a slice has no size of its own: use a `Vec`".to_owned(),
                    },
                );
                self.held(ty);
            }
            Type::Reference(reference) => self.reference(ty, reference),
            Type::Ptr(_) => self.refuse(
                ty,
                "a pointer means nothing in another process: \
        send what it points to",
            ),
            Type::FnPtr(_) => self.refuse(ty, "a function cannot be sent to another process"),
            Type::ImplTrait(_) => self.refuse(ty, "`impl Trait` does not say what is sent: name a message"),
            Type::TraitObject(_) => self.refuse(
                ty,
                "a trait object cannot be sent to another process: name a \
        message, such as an enum of the possible types",
            ),
            Type::Never(_) => self.refuse(ty, "`!` has no values to send"),
            Type::Infer(_) => self.refuse(ty, "name the type: the other process cannot infer it"),
            Type::Macro(_) => self.refuse(ty, "a macro in a type cannot be seen through: write the type out"),
            _ => self.refuse(ty, "this type cannot be sent to another process"),
        }
    }

    /// Refuses a reference, and what it refers to if that is refused without it, too.
    fn reference(&self, ty: &Type, reference: &TypeReference) {
        if let Some(last) = last_segment(&reference.elem).filter(|_| owns_descriptor(&reference.elem)) {
            return self.refuse(reference, self.no_descriptor(&last.ident.to_string()));
        }
        let is = |name: &str| last_segment(&reference.elem).is_some_and(|last| last.ident == name);
        let whole = match self.place {
            Place::Parameter(whole) if is("Archived") => whole,
            _ => ty,
        };
        // It is the same if the reference stands where no other type can: `<&T as Trait>::Type`.
        let instead = Some(instead(whole)).filter(|ty| ty != whole).and_then(|ty| self.accepted(ty));
        let message = match (self.place, &instead) {
            (Place::Field(_), Some(instead)) => format!("a message owns its data: use `{instead}`"),
            (Place::Field(_), None) => "a message owns its data, and holds no references".to_owned(),
            _ if is("Context") => {
                "the context is of the whole call: take it as a parameter `&Context`".to_owned()
            }
            (Place::Result, Some(instead)) => {
                format!(
                    "a result is owned: return `{instead}`; callers read it where it arrived with `view()`"
                )
            }
            (Place::Result, None) => "a result is owned, and holds no references: callers read it where it \
                arrived with `view()`"
                .to_owned(),
            (Place::Parameter(_), Some(instead)) if is("Archived") => {
                format!("an archive is read as a whole: take `&Archived<{instead}>`")
            }
            (Place::Parameter(_), None) if is("Archived") => {
                "an archive is read as a whole: take `&Archived<..>` of all that this parameter sends"
                    .to_owned()
            }
            (Place::Parameter(_), Some(instead)) => {
                format!("no references inside a parameter: use `{instead}`")
            }
            (Place::Parameter(_), None) => "no references inside a parameter".to_owned(),
        };
        if !self.said {
            self.refuse(reference, message + &if_own(&reference.elem));
        }
        self.inside(instead.is_some()).referred_to(&reference.elem);
    }

    /// A type to advise, if it is not refused itself.
    fn accepted(&self, mut ty: Type) -> Option<String> {
        if let Place::Field(name) = self.place {
            each_endless(&mut ty, name, &mut |own| *own = parse_quote!(Box<#own>));
        }
        let place = match self.place {
            Place::Parameter(_) => Place::Parameter(&ty),
            other => other,
        };
        (is_fine_in(place, &ty) && !holds_descriptor(&ty)).then(|| text(&ty))
    }

    /// Checks what a reference refers to, which may be what only references refer to.
    fn referred_to(&self, ty: &Type) {
        match last_segment(ty) {
            Some(last) if last.ident == "Context" => {}
            Some(last) if last.ident == "Archived" => {
                type_arguments(last).into_iter().for_each(|ty| self.held(ty))
            }
            _ => self.held(ty),
        }
    }

    /// Checks what is held elsewhere, in a `Box` or the like, which may have no size of its own.
    pub(super) fn held(&self, ty: &Type) {
        match peel(ty) {
            Type::Slice(slice) if takes_no_bytes(&slice.elem) => self.refuse(
                ty,
                "elements of a slice must take bytes, or their number is \
                        bounded by nothing: send the number instead",
            ),
            Type::Slice(slice) => self.check(&slice.elem),
            ty if is_str(ty) || referred_instead(ty).is_some() => {}
            _ => self.check(ty),
        }
    }

    fn path(&self, whole: &Type, path: &Path) {
        let Some(last) = path.segments.last() else { return };
        if self.refuse_by_name(whole, path, last) {
            return self.held_by_refused(last);
        }
        if COLLECTIONS.iter().any(|name| last.ident == name)
            && let Some(element) = type_arguments(last).first()
            && takes_no_bytes(element)
        {
            self.refuse(
                element,
                format!(
                    "elements of `{}` must take bytes, or their number is bounded \
        by nothing: send the number instead",
                    last.ident
                ),
            );
        }
        // `Box` alone may hold what has no size of its own.
        match type_arguments(last)[..] {
            [inner] if last.ident == "Box" && is_sizeless(inner) => {
                let message = format!("`{}` cannot be sent: {}", text(whole), send_instead(inner));
                self.refuse(whole, message);
            }
            [inner] if last.ident == "Box" => self.held(inner),
            _ => path.segments.iter().for_each(|segment| self.arguments(segment)),
        }
    }

    /// Checks what is sent instead of what was refused by its name, and was told so.
    fn held_by_refused(&self, last: &PathSegment) {
        let is_one_of = |names: &[&str]| names.iter().any(|name| last.ident == name);
        for argument in type_arguments(last) {
            if is_one_of(&SHARED) || is_one_of(&["Cow"]) {
                self.held(argument);
            } else if is_one_of(&["IndexMap", "IndexSet", "Archived", "View"]) {
                self.check(argument);
            }
        }
    }

    /// Refuses types that are known by name, and says whether it did.
    fn refuse_by_name(&self, whole: &Type, path: &Path, last: &PathSegment) -> bool {
        let name = last.ident.to_string();
        let in_service = !matches!(self.place, Place::Field(_));
        let has_arguments = !last.arguments.is_empty();
        let message = if let Some(instead) = fixed_width(&last.ident) {
            cut_off(&name, instead)
        } else if has_arguments && SHARED.contains(&name.as_str()) {
            format!("`{name}` shares memory inside one process: {}", self.unshared(last))
        } else if let Some((_, instead)) =
            INDEXED.iter().find(|(indexed, _)| has_arguments && *indexed == name)
        {
            format!("`{name}` cannot be sent: use a {instead}")
        } else if has_arguments && name == "Cow" {
            let held = type_arguments(last).first().and_then(|ty| foreign(ty));
            let owned = if held == Some(Foreign::CStr) { "`CString`" } else { "`String` or `Vec`" };
            format!("what is sent is owned: use {owned} instead of `Cow`")
        } else if has_arguments && name == "PhantomData" {
            "`PhantomData` is nothing to send: leave it out, and keep what it marks in a type of your own around the \
        message"
                .to_owned()
        } else if path.is_ident("str") {
            "`str` has no size of its own: use `String`".to_owned()
        } else if is_sizeless(whole) {
            format!("`{name}` has no size of its own: {}", send_instead(whole))
        } else if in_service && LATER.contains(&name.as_str()) {
            format!("`{name}` is not in this version of shmrpc yet")
        } else if DESCRIPTORS.contains(&name.as_str()) {
            self.no_descriptor(&name)
        } else if in_service && name == "BlobMut" {
            "name a `Blob`: the caller fills a `BlobMut`, and the other side has a `Blob` of it".to_owned()
        } else if in_service && name == "Blob" {
            "a `Blob` is a parameter or a result of its own, and no part of another one".to_owned()
        } else if in_service && name == "Context" && !has_arguments {
            "the context is made by the server and only lent: take it as a parameter `&Context`".to_owned()
        } else if in_service && name == "Archived" && matches!(self.place, Place::Parameter(_)) {
            "an archive stays where it arrived: take it as a parameter `&Archived<T>`".to_owned()
        } else if in_service && name == "Archived" {
            "a result is returned as itself, and archived on its way: return `T` instead of `Archived<T>`"
                .to_owned()
        } else if in_service && name == "View" && has_arguments {
            "a `View` is made by the client, with `view()`: name the type that it shows".to_owned()
        } else if in_service && path.segments.first().is_some_and(|first| first.ident == "Self") {
            "`Self` is the server's own type, which clients do not know: name a message".to_owned()
        } else {
            return false;
        };
        self.refuse(whole, message);
        true
    }

    /// Why a descriptor of this name cannot stand here.
    fn no_descriptor(&self, name: &str) -> String {
        match name {
            _ if matches!(self.place, Place::Field(_)) => {
                "a message holds no descriptors: send each as an `OwnedFd` parameter or result of its own"
                    .into()
            }
            "OwnedFd" => {
                "an `OwnedFd` is a parameter or a result of its own, and no part of another one".into()
            }
            _ => format!(
                "a `{name}` means nothing in another process: send an `OwnedFd`, a parameter or a result of its own, which \
                is moved there"
            ),
        }
    }

    /// What to send in place of an `Rc` or the like.
    fn unshared(&self, last: &PathSegment) -> String {
        let held = type_arguments(last).first().map(|ty| peel(ty));
        match (self.place, held) {
            (_, Some(held)) if referred_instead(held).is_some() => send_instead(held) + &if_own(held),
            (Place::Field(message), Some(Type::Path(held))) if is_own(held, message) => {
                "send a `Box` of the value".to_owned()
            }
            _ => "send the value itself, or a `Box` of it".to_owned(),
        }
    }

    fn arguments(&self, segment: &PathSegment) {
        match &segment.arguments {
            PathArguments::None => {}
            PathArguments::Parenthesized(arguments) => {
                self.refuse(arguments, "a function cannot be sent to another process")
            }
            PathArguments::AngleBracketed(arguments) => {
                for argument in &arguments.args {
                    match argument {
                        GenericArgument::Type(ty) => self.check(ty),
                        GenericArgument::Lifetime(lifetime) => {
                            self.refuse(lifetime, "what is sent is owned: a message has no lifetimes")
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn refuse(&self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.errors.refuse(tokens, message);
    }
}

/// Whether there is a descriptor in what may otherwise be sent, of which rustc tells.
pub(super) fn holds_descriptor(ty: &Type) -> bool {
    parts(ty).iter().any(|part| owns_descriptor(&part.ty))
}

/// What to do about a type of the standard library that is held elsewhere.
fn send_instead(ty: &Type) -> String {
    match foreign(ty) {
        Some(Foreign::Path) => "use `String`, or `Vec<u8>` if it may not be UTF-8".to_owned(),
        Some(Foreign::CStr) => "use `CString`".to_owned(),
        Some(Foreign::Descriptor) => "send an `OwnedFd`, a parameter or a result of its own".to_owned(),
        None => "send the value itself".to_owned(),
    }
}

/// What else a name may be that stands behind a reference.
pub(super) fn if_own(ty: &Type) -> String {
    match last_segment(ty).filter(|_| foreign(ty) == Some(Foreign::Path) && may_be_own(ty)) {
        Some(last) => format!("; if `{}` is your own message, write it without the reference", last.ident),
        None => String::new(),
    }
}

/// Types that are seen to be zero-sized. Others are found when `Schema` is compiled for them.
fn takes_no_bytes(ty: &Type) -> bool {
    match peel(ty) {
        Type::Tuple(tuple) => tuple.elems.iter().all(takes_no_bytes),
        Type::Array(array) => takes_no_bytes(&array.elem) || text(&array.len) == "0",
        other => is_unit(other),
    }
}

/// Where `ty` names the message `name` that it is part of.
pub(super) fn mention<'a>(ty: &'a Type, name: &Ident) -> Option<&'a Type> {
    match peel(ty) {
        Type::Path(path) => {
            if is_own(path, name) {
                return Some(ty);
            }
            path.path.segments.iter().flat_map(type_arguments).find_map(|argument| mention(argument, name))
        }
        Type::Tuple(tuple) => tuple.elems.iter().find_map(|elem| mention(elem, name)),
        Type::Array(array) => mention(&array.elem, name),
        Type::Slice(slice) => mention(&slice.elem, name),
        Type::Reference(reference) => mention(&reference.elem, name),
        _ => None,
    }
}
