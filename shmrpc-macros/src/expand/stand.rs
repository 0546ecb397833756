//! What rustc would refuse once more of a type that was refused, put right, so that its message can be declared.

use syn::{
    GenericArgument, Generics, Lifetime, PathArguments, PathSegment, Type, TypeReference, parse_quote,
};

use crate::schema::is_fixed;
use crate::syntax::{is_sizeless, is_str};

/// What may hold a type without a size.
const HOLDERS: [&str; 11] =
    ["Box", "Rc", "Arc", "Weak", "Cow", "PhantomData", "Cell", "RefCell", "Mutex", "RwLock", "NonNull"];

/// Makes a type one that can be a field's: it has a size and a name, and names no lifetimes but those of the message.
pub(crate) fn in_field(ty: &mut Type, generics: &Generics) {
    inside(ty, generics);
    match ty {
        Type::Group(group) => in_field(&mut group.elem, generics),
        Type::Paren(paren) => in_field(&mut paren.elem, generics),
        _ if has_no_size(ty) => *ty = parse_quote!(::std::boxed::Box<#ty>),
        _ => {}
    }
}

/// The same of a type that needs no size where it is.
fn inside(ty: &mut Type, generics: &Generics) {
    match ty {
        Type::Infer(_) | Type::ImplTrait(_) | Type::Never(_) | Type::Verbatim(_) => *ty = parse_quote!(()),
        Type::Slice(slice) => in_field(&mut slice.elem, generics),
        Type::Array(array) => in_field(&mut array.elem, generics),
        Type::Tuple(tuple) => tuple.elems.iter_mut().for_each(|elem| in_field(elem, generics)),
        Type::Ptr(pointer) => inside(&mut pointer.elem, generics),
        Type::Reference(reference) => {
            inside(&mut reference.elem, generics);
            if let Some(instead) = borrowed(reference, generics) {
                *ty = instead;
            }
        }
        Type::Path(path) => {
            path.path.segments.iter_mut().for_each(|segment| arguments(segment, generics));
        }
        _ => {}
    }
}

/// Gives a reference a lifetime that is known. What depends on the parameters may not live that long, and is held instead.
fn borrowed(reference: &mut TypeReference, generics: &Generics) -> Option<Type> {
    if reference.lifetime.as_ref().is_some_and(|lifetime| is_known(lifetime, generics)) {
        return None;
    }
    reference.lifetime = Some(parse_quote!('static));
    let held = &reference.elem;
    (!is_fixed(generics, held)).then(|| parse_quote!(::std::boxed::Box<#held>))
}

fn arguments(segment: &mut PathSegment, generics: &Generics) {
    let is_holder = HOLDERS.iter().any(|name| segment.ident == name);
    let is_borrowed = segment.ident == "Cow";
    let PathArguments::AngleBracketed(arguments) = &mut segment.arguments else { return };
    for argument in &mut arguments.args {
        match argument {
            GenericArgument::Lifetime(lifetime) if !is_known(lifetime, generics) => {
                *lifetime = parse_quote!('static);
            }
            GenericArgument::Type(ty) if is_holder => inside(ty, generics),
            GenericArgument::Type(ty) => in_field(ty, generics),
            _ => {}
        }
    }
    let is_lifetime = |argument: &GenericArgument| matches!(argument, GenericArgument::Lifetime(_));
    if is_borrowed && !arguments.args.iter().any(is_lifetime) {
        arguments.args.insert(0, parse_quote!('static));
    }
}

fn is_known(lifetime: &Lifetime, generics: &Generics) -> bool {
    lifetime.ident == "static" || generics.lifetimes().any(|known| known.lifetime.ident == lifetime.ident)
}

/// As far as its spelling tells.
fn has_no_size(ty: &Type) -> bool {
    is_str(ty) || is_sizeless(ty) || matches!(ty, Type::Slice(_) | Type::TraitObject(_))
}
