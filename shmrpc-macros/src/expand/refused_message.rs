//! What stands in the place of a message that was refused, so that it is refused once, and not once more wherever it is
//! used: the item, less what rustc would refuse once more, and its archive, in which a field that was refused is what was
//! advised instead.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::punctuated::Punctuated;
use syn::visit_mut::VisitMut;
use syn::{
    Attribute, ConstParam, Data, DeriveInput, Fields, GenericParam, Generics, Ident, Lifetime, Meta, Token,
    Type, TypeParam, parse_quote,
};

use crate::args::Args;
use crate::check;
use crate::expand::{messages, stand};
use crate::model::{Message, Shape, repeated_of_message};
use crate::schema;
use crate::syntax::{each_endless, in_full, instead, is_rkyv, mentions};

/// All of it.
pub(crate) fn expand(message: &Message) -> TokenStream {
    let Some(condition) = message.has_variants() else { return always(message) };
    let none = without_variants(&message.under(&quote!(not(#condition))));
    let some = always(&message.under(&condition));
    quote!(#some #none)
}

/// The same for an enum where `#[cfg]` takes all of its variants.
pub(crate) fn without_variants(message: &Message) -> TokenStream {
    let mended = mended(message);
    let (item, is_message) = (without_archive(&mended), is_message(&mended));
    quote!(#item #is_message)
}

/// A message that has variants, if it is an enum, or none at all.
fn always(message: &Message) -> TokenStream {
    let mended = mended(message);
    let item = if may_be_archived(message) { archived(&mended) } else { without_archive(&mended) };
    let is_message = is_message(&mended);
    // With what is wrong with the other fields, in the same go.
    let is_fine = |ty: &Type| check::is_fine_field(message, ty);
    let checks = schema::check_parts(message, |part| check::asked_of_field(message, part));
    let empty = messages::refuse_empty_elements(message, |ty| is_fine(ty) && !mentions_self(ty));
    quote!(#item #is_message #checks #empty)
}

/// The same for a union, of which there is no message. `None` if the item is none.
pub(crate) fn union(args: Args, tokens: TokenStream) -> Option<TokenStream> {
    let item: DeriveInput = syn::parse2(tokens).ok()?;
    let Data::Union(_) = item.data else { return None };
    let message = Message {
        krate: args.krate,
        repeated: repeated_of_message(&item),
        name: item.ident.clone(),
        generics: item.generics.clone(),
        recursive: true,
        shape: Shape::Struct(Fields::Unit),
        item,
    };
    let (item, is_message) = (without_archive(&message), is_message(&message));
    Some(quote!(#item #is_message))
}

fn mentions_self(ty: &Type) -> bool {
    mentions(ty.to_token_stream(), &[&format_ident!("Self")])
}

/// The message with what was refused taken off it, or put right.
fn mended(message: &Message) -> Message {
    let mut mended = message.clone();
    let fields = message.fields();
    let own = |ty: &Type| mentions_self(ty) || mentions(ty.to_token_stream(), &[&message.name]);
    // As of a recursive one, nothing is asked of its fields in the bounds of what is derived.
    mended.recursive |= message.generics.params.is_empty() || fields.iter().any(|(_, field)| own(&field.ty));
    for attrs in messages::attributes_mut(&mut mended.item).into_iter().skip(1) {
        attrs.retain(|attr| !attr.path().is_ident("rkyv"));
    }
    let archived_as: Vec<Option<Attribute>> = {
        let refused = |ty: &Type| !check::is_fine_field(message, ty);
        let of_field = |ty: &Type| refused(ty).then(|| archived_as(&mended, ty));
        messages::fields_mut(&mut message.item.clone()).iter().map(|field| of_field(&field.ty)).collect()
    };
    let is_compared = archived_as.iter().all(Option::is_none);
    mended.item.attrs = mended.item.attrs.iter().filter_map(|attr| accepted(attr, is_compared)).collect();
    for (field, attr) in messages::fields_mut(&mut mended.item).into_iter().zip(archived_as) {
        // rustc would say once more that it has no end.
        each_endless(&mut field.ty, &message.name, &mut |own| *own = parse_quote!(::std::boxed::Box<#own>));
        if attr.is_some() {
            stand::in_field(&mut field.ty, &message.generics);
        }
        field.attrs.extend(attr);
    }
    mended
}

/// An attribute of the item, or what is left of it if a part of it was refused. A field that is archived as another type
/// cannot be compared with its archive.
fn accepted(attr: &Attribute, is_compared: bool) -> Option<Attribute> {
    if check::is_fine_attribute(attr) && (is_compared || !attr.path().is_ident("rkyv")) {
        return Some(attr.clone());
    }
    let parts = attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
    let name = attr.path();
    let is_left = |part: &&Meta| {
        !is_rkyv(part.path())
            && (is_compared || !part.path().is_ident("compare"))
            && check::is_fine_attribute(&parse_quote!(#[#name(#part)]))
    };
    let left: Vec<&Meta> = parts.iter().filter(is_left).collect();
    (!left.is_empty()).then(|| parse_quote!(#[#name(#(#left),*)]))
}

/// How a field of a type that was refused is archived: as the type is that was advised, if there is one.
fn archived_as(message: &Message, written: &Type) -> Attribute {
    let Message { krate, item: _, repeated: _, name, generics, recursive, shape: _ } = message;
    let mut ty = in_full(&instead(written), written);
    each_endless(&mut ty, name, &mut |own| *own = parse_quote!(::std::boxed::Box<#own>));
    let with: Type = if check::is_fine_field(message, &ty) {
        let mut named = ty.clone();
        message.name_in(&mut named);
        schema::archived_instead(krate, generics, &ty, &named.to_token_stream())
    } else {
        parse_quote!(#krate::private::Checked<false>)
    };
    let omitted = (*recursive || schema::is_fixed(generics, written)).then(|| quote!(omit_bounds,));
    parse_quote!(#[rkyv(#omitted with = #with)])
}

/// Whether rkyv can make an archive of it.
fn may_be_archived(message: &Message) -> bool {
    let has_variants = match &message.shape {
        Shape::Struct(_) => true,
        Shape::Enum(variants) => !variants.is_empty() && variants.len() <= check::MOST_VARIANTS,
    };
    has_variants && !check::repeats_a_name(message)
}

/// The item and its archive, whose variants have numbers of their own.
fn archived(message: &Message) -> TokenStream {
    let mut copy = message.item.clone();
    let mut has_numbers = false;
    if let Data::Enum(data) = &mut copy.data {
        for variant in &mut data.variants {
            has_numbers |= variant.discriminant.take().is_some();
        }
    }
    // Or rustc would advise a parameter of the same name for a type that it does not find, and so tell of it twice.
    copy.ident.set_span(Span::call_site());
    if has_numbers || messages::is_aside(message) {
        messages::derived_aside(message, copy)
    } else {
        messages::derived_beside(message, copy)
    }
}

/// The item without an archive of its own.
fn without_archive(message: &Message) -> TokenStream {
    let Message { krate, item: _, repeated, name, generics: _, recursive: _, shape: _ } = message;
    let item = messages::without_rkyv(message);
    let rkyv = quote!(#krate::private::rkyv);
    let (generics, arguments) = without_lifetimes(message);
    let ty = quote!(#name #arguments);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let for_any = |side: TokenStream| {
        let mut generics = generics.clone();
        generics.params.push(parse_quote!(#side: #rkyv::rancor::Fallible + ?::core::marker::Sized));
        generics
    };
    let (serialize, deserialize) = (for_any(quote!(__S)), for_any(quote!(__D)));
    let (serialize, deserialize) = (serialize.split_for_impl().0, deserialize.split_for_impl().0);
    let result = |ok: TokenStream, side: TokenStream| quote!(::core::result::Result<#ok, <#side as #rkyv::rancor::Fallible>::Error>);
    let (resolver, value) = (result(quote!(()), quote!(__S)), result(quote!(#ty), quote!(__D)));
    let impls = [
        quote!(impl #impl_generics #rkyv::Archive for #ty #where_clause {
            type Archived = u8;
            type Resolver = ();
            fn resolve(&self, (): (), _: #rkyv::Place<u8>) {}
        }),
        quote!(impl #serialize #rkyv::Serialize<__S> for #ty #where_clause {
            fn serialize(&self, _: &mut __S) -> #resolver { ::core::unreachable!() }
        }),
        quote!(impl #deserialize #rkyv::Deserialize<#ty, __D> for u8 #where_clause {
            fn deserialize(&self, _: &mut __D) -> #value { ::core::unreachable!() }
        }),
    ];
    let impls = impls.iter().map(|one| quote!(#(#repeated)* #one));
    quote!(#item #(#impls)*)
}

/// That it is a message, of which nothing is described.
fn is_message(message: &Message) -> TokenStream {
    let Message { krate, item: _, repeated, name, generics: _, recursive: _, shape: _ } = message;
    let (mut generics, arguments) = without_lifetimes(message);
    let ty = quote!(#name #arguments);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let declared = [
        quote!(impl #impl_generics #krate::private::Declared for #ty #where_clause {}),
        quote!(impl #impl_generics #krate::Schema for #ty #where_clause {
            fn describe(_: &mut #krate::Describe) {}
        }),
    ];
    let declared = declared.iter().map(|one| quote!(#(#repeated)* #one)).collect::<TokenStream>();
    if !generics.params.is_empty() {
        generics.make_where_clause().predicates.push(parse_quote!(Self: #krate::private::Wire));
    }
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    quote! {
        #declared
        #(#repeated)*
        impl #impl_generics #krate::Message for #ty #where_clause {}
    }
}

/// Puts `'static` in the place of these lifetimes.
struct Static(Vec<Ident>);

impl VisitMut for Static {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if self.0.contains(&lifetime.ident) {
            *lifetime = parse_quote!('static);
        }
    }
}

/// The generics without lifetimes, which a message must not have, and the arguments that they leave.
fn without_lifetimes(message: &Message) -> (Generics, TokenStream) {
    let krate = &message.krate;
    let mut generics = message.generics.clone();
    let arguments = generics.params.iter().map(|parameter| match parameter {
        GenericParam::Lifetime(_) => quote!('static),
        GenericParam::Type(TypeParam { ident, .. }) | GenericParam::Const(ConstParam { ident, .. }) => {
            quote!(#ident)
        }
    });
    let arguments = quote!(<#(#arguments),*>);
    let is_lifetime = |parameter: &GenericParam| matches!(parameter, GenericParam::Lifetime(_));
    generics.params = generics.params.into_iter().filter(|parameter| !is_lifetime(parameter)).collect();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::Message));
    }
    let lifetimes = message.generics.lifetimes().map(|known| known.lifetime.ident.clone());
    Static(lifetimes.collect()).visit_generics_mut(&mut generics);
    (generics, arguments)
}
