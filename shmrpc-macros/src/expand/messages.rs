//! A message: the item as written, rkyv's derives through shmrpc's re-export, `Recheck`, and `Schema`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::{Attribute, Data, DeriveInput, Field, Fields, Path, Type, TypeParam, WherePredicate, parse_quote};

use crate::model::{Message, Shape, names_what_is_old};
use crate::schema;
use crate::syntax::{hides, mentions, rkyv_derive, wire_name};

/// The item with its derives, and its schema. The schema comes first, because it explains best what is wrong with a
/// field.
pub(crate) fn expand(message: &Message) -> TokenStream {
    let item = if is_aside(message) {
        derived_aside(message, copy(message))
    } else if allows_lints(message) || names_itself(message) {
        derived_beside(message, copy(message))
    } else {
        derived_in_place(message)
    };
    let schema = schema::message(message);
    let refused = refuse_empty_elements(message, |_| true);
    quote!(#schema #item #refused)
}

pub(crate) fn refuse_empty_elements(message: &Message, asked_about: impl Fn(&Type) -> bool) -> TokenStream {
    let fixed = message.fields().into_iter().map(|(cfgs, field)| (cfgs, &field.ty));
    let fixed = fixed.filter(|(_, ty)| schema::is_fixed(&message.generics, ty) && asked_about(ty));
    let fixed = fixed.map(|(cfgs, ty)| ([message.repeated.clone(), cfgs].concat(), ty));
    schema::refuse_empty_elements(&message.krate, fixed)
}

/// Whether what rkyv generates has to stay inside a constant.
pub(crate) fn is_aside(message: &Message) -> bool {
    has_named_variant(message) || names_what_is_old(&message.repeated)
}

/// Whether rkyv's resolver, an enum that repeats the variants, has named fields. They have no docs, so a user who
/// denies `missing_docs` could not compile.
fn has_named_variant(message: &Message) -> bool {
    match &message.shape {
        Shape::Struct(_) => false,
        Shape::Enum(variants) => variants.iter().any(|variant| matches!(variant.fields, Fields::Named(_))),
    }
}

/// Whether lints are allowed in it. The derives know nothing of that.
fn allows_lints(message: &Message) -> bool {
    let mut item = message.item.clone();
    let is = |attr: &Attribute, name: &str| attr.path().is_ident(name) || hides(attr, name);
    attributes_mut(&mut item).into_iter().flatten().any(|attr| is(attr, "allow") || is(attr, "expect"))
}

/// Whether a field names it `Self`.
fn names_itself(message: &Message) -> bool {
    let own = |field: &Field| mentions(field.ty.to_token_stream(), &[&format_ident!("Self")]);
    fields_mut(&mut message.item.clone()).into_iter().any(|field| own(field))
}

/// What the derives see. Its names are as if they were the derives' own: of these, rustc says nothing.
fn copy(message: &Message) -> DeriveInput {
    let mut copy = message.item.clone();
    theirs(&mut copy.ident);
    if let Data::Enum(data) = &mut copy.data {
        data.variants.iter_mut().for_each(|variant| theirs(&mut variant.ident));
    }
    for field in fields_mut(&mut copy) {
        message.name_in(&mut field.ty);
        field.ident.as_mut().into_iter().for_each(theirs);
    }
    copy
}

/// At the same place, but of the macro.
fn theirs(name: &mut Ident) {
    name.set_span(name.span().resolved_at(Span::call_site()));
}

/// The item with its derives.
fn derived_in_place(message: &Message) -> TokenStream {
    let mut item = message.item.clone();
    // First, because `#[rkyv(..)]` must follow the derive that knows it.
    item.attrs.splice(0..0, derives(message));
    mark_fields(message, &mut item);
    quote!(#item)
}

/// The item, and a copy that only the derives see.
pub(crate) fn derived_beside(message: &Message, copy: DeriveInput) -> TokenStream {
    let (item, copy) = (without_rkyv(message), discarded(message, copy));
    quote!(#item #copy)
}

/// As [`derived_in_place`], but what rkyv generates stays inside a constant, where it needs no docs and may use what is
/// deprecated. Its archived type goes by its usual name all the same. The derives see the `copy`.
pub(crate) fn derived_aside(message: &Message, copy: DeriveInput) -> TokenStream {
    let Message { krate, item: _, repeated, name, generics, recursive: _, shape: _ } = message;
    let copy = discarded(message, copy);
    let item = without_rkyv(message);
    let vis = &item.vis;
    let mut archived = format_ident!("Archived{}", name.unraw());
    theirs(&mut archived);
    let doc = format!(" An archived [`{name}`].");
    let (_, type_generics, _) = generics.split_for_impl();
    let mut parameters = generics.clone();
    parameters.where_clause = None;
    for parameter in parameters.type_params_mut() {
        parameter.colon_token = None;
        parameter.bounds.clear();
    }
    quote! {
        #item

        #(#repeated)*
        const _: () = {
            #copy
        };

        #(#repeated)*
        #[doc = #doc]
        #[allow(dead_code, reason = "a program may not look into the archive")]
        #vis type #archived #parameters = #krate::private::rkyv::Archived<#name #type_generics>;
    }
}

/// A copy of the item with the derives, which goes once these have seen it.
fn discarded(message: &Message, mut copy: DeriveInput) -> DeriveInput {
    let krate = &message.krate;
    keep_attributes(&mut copy, &["cfg", "rkyv"]);
    copy.attrs.splice(0..0, derives(message));
    copy.attrs.push(parse_quote!(#[#krate::private::discard]));
    mark_fields(message, &mut copy);
    copy
}

/// The derives, and what makes them find their crates, and recursion end.
fn derives(message: &Message) -> Vec<Attribute> {
    let krate = &message.krate;
    let rkyv: Path = parse_quote!(#krate::private::rkyv);
    // It stands beside the message, where a `HostResolver` may be the user's own. Nobody names it.
    let resolver = Ident::new(&format!("__Shmrpc{}Resolver", wire_name(&message.name)), Span::mixed_site());
    let recursive = message.recursive.then(|| quote!(, recursive));
    let bounded = (!schema::parts_in_bounds(message).is_empty()).then(|| quote!(, bounded));
    let mut derives = vec![
        parse_quote!(
            #[derive(#rkyv::Archive, #rkyv::Serialize, #rkyv::Deserialize, #krate::private::Recheck)]
        ),
        parse_quote!(#[rkyv(crate = #rkyv, resolver = #resolver)]),
        parse_quote!(#[recheck(crate = #krate #recursive #bounded)]),
    ];
    derives.push(bounds(message, &rkyv));
    derives
}

/// The bounds that rkyv would have taken from the fields.
///
/// What stands in the bounds of a message is asked by each derive and in the same words: so rustc has one thing to say of a
/// part that is no message, where it was written. Those of a recursive message would go in a circle; its parameters are
/// asked to be archived.
fn bounds(message: &Message, rkyv: &Path) -> Attribute {
    let (types, asked): (Vec<Type>, Vec<WherePredicate>) = if message.recursive {
        let parameters = message.generics.type_params();
        parameters
            .map(|TypeParam { ident, .. }| (parse_quote!(#ident), parse_quote!(#ident: #rkyv::Archive)))
            .unzip()
    } else {
        let parts = schema::parts_in_bounds(message);
        parts.iter().map(|part| (part.ty.clone(), schema::is_asked(&message.krate, part))).unzip()
    };
    // It implies that the type is archived. rustc takes that for a part of what was asked if it stands at the same place.
    let encoded = types.iter().map(|ty| schema::bound(ty, quote!(#rkyv::Serialize<__S>)));
    let source = |side: TokenStream| quote!(<#side as #rkyv::rancor::Fallible>::Error: #rkyv::rancor::Source);
    let (serializer, deserializer, checker) = (source(quote!(__S)), source(quote!(__D)), source(quote!(__C)));
    parse_quote! {
        #[rkyv(
            archive_bounds(#(#asked),*),
            serialize_bounds(
                __S: #rkyv::ser::Writer + #rkyv::ser::Allocator,
                #serializer
                #(, #asked, #encoded)*
            ),
            deserialize_bounds(
                #deserializer
                #(, #asked, <#types as #rkyv::Archive>::Archived: #rkyv::Deserialize<#types, __D>)*
            ),
            bytecheck(bounds(
                __C: #rkyv::validation::ArchiveContext,
                #checker
                #(, #asked, <#types as #rkyv::Archive>::Archived: #rkyv::bytecheck::CheckBytes<__C>)*
            )),
        )]
    }
}

/// Says how fields are archived, and of which rkyv takes no bounds: those that are the same for all values of the
/// parameters. A field that was refused says it already.
fn mark_fields(message: &Message, item: &mut DeriveInput) {
    let Message { krate, item: _, repeated: _, name: _, generics, recursive, shape: _ } = message;
    let in_bounds = !schema::parts_in_bounds(message).is_empty();
    for field in fields_mut(item) {
        if field.attrs.iter().any(|attr| attr.path().is_ident("rkyv")) {
            continue;
        }
        let omitted = (*recursive || schema::is_fixed(generics, &field.ty)).then(|| quote!(omit_bounds));
        let with = schema::archived_with(krate, generics, *recursive, &field.ty).filter(|_| !in_bounds);
        let said: Vec<TokenStream> =
            omitted.into_iter().chain(with.map(|with| quote!(with = #with))).collect();
        if !said.is_empty() {
            field.attrs.push(parse_quote!(#[rkyv(#(#said),*)]));
        }
    }
}

/// The item less rkyv's attributes and derives, for want of the crate that they belong to.
pub(crate) fn without_rkyv(message: &Message) -> DeriveInput {
    let mut item = message.item.clone();
    for attrs in attributes_mut(&mut item) {
        attrs.retain(|attr| {
            !attr.path().is_ident("rkyv") && !hides(attr, "rkyv") && rkyv_derive(attr).is_none()
        });
    }
    item
}

fn keep_attributes(item: &mut DeriveInput, kept: &[&str]) {
    for attrs in attributes_mut(item) {
        attrs.retain(|attr| kept.iter().any(|name| attr.path().is_ident(name)));
    }
}

/// The attributes of the item, of its variants and of its fields.
pub(crate) fn attributes_mut(item: &mut DeriveInput) -> Vec<&mut Vec<Attribute>> {
    let mut all = vec![&mut item.attrs];
    match &mut item.data {
        Data::Struct(data) => all.extend(data.fields.iter_mut().map(|field| &mut field.attrs)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                all.push(&mut variant.attrs);
                all.extend(variant.fields.iter_mut().map(|field| &mut field.attrs));
            }
        }
        Data::Union(data) => all.extend(data.fields.named.iter_mut().map(|field| &mut field.attrs)),
    }
    all
}

pub(crate) fn fields_mut(item: &mut DeriveInput) -> Vec<&mut Field> {
    match &mut item.data {
        Data::Struct(data) => data.fields.iter_mut().collect(),
        Data::Enum(data) => data.variants.iter_mut().flat_map(|variant| variant.fields.iter_mut()).collect(),
        Data::Union(data) => data.fields.named.iter_mut().collect(),
    }
}
