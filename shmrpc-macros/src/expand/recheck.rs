//! `Recheck` of the archive that rkyv derives: that of its fields.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Fields, Member, Path, WherePredicate, parse_quote};

use crate::args::{self, Args};
use crate::errors::Errors;
use crate::schema;
use crate::syntax::{Part, parts};

/// The impl.
pub(super) fn expand(tokens: TokenStream) -> syn::Result<TokenStream> {
    let item: DeriveInput = syn::parse2(tokens)?;
    let Args { krate, recursive } = arguments(&item)?;
    let DeriveInput { attrs: _, vis: _, ident, mut generics, data } = item;
    let archived = format_ident!("Archived{}", ident.unraw());
    let cases: Vec<(TokenStream, &Fields)> = match &data {
        Data::Struct(data) => vec![(quote!(#archived), &data.fields)],
        Data::Enum(data) => {
            let cases = data.variants.iter().map(|variant| {
                let name = &variant.ident;
                (quote!(#archived::#name), &variant.fields)
            });
            cases.collect()
        }
        Data::Union(data) => return Err(syn::Error::new_spanned(data.union_token, "a union is no message")),
    };
    let types: Vec<_> = cases.iter().flat_map(|(_, fields)| *fields).map(|field| &field.ty).collect();
    let mut bounds: Vec<WherePredicate> = Vec::new();
    bounds.extend(generics.type_params().map(|parameter| {
        let name = &parameter.ident;
        parse_quote!(#name: #krate::Message)
    }));
    // What rkyv asks of the fields for the archived type to exist. Of a recursive one's it asks nothing.
    if !recursive {
        let asked = types.iter().flat_map(|ty| match schema::is_fixed(&generics, ty) {
            true => parts(ty),
            false => vec![Part::whole(ty)],
        });
        bounds.extend(schema::once_each(asked).iter().map(|part| schema::is_asked(&krate, part)));
    }
    generics.make_where_clause().predicates.extend(bounds);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    // A recursive one would ask itself.
    let needed = if recursive {
        quote!(true)
    } else {
        quote!(#krate::Describe::any(&[
            #(<#krate::Archived<#types> as #krate::private::Recheck>::NEEDED),*
        ]))
    };
    let arms = cases.iter().map(|(path, fields)| arm(&krate, path, fields));
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #krate::private::Recheck for #archived #type_generics #where_clause {
            const NEEDED: bool = #needed;

            fn recheck(&self) -> ::core::result::Result<(), #krate::private::Refusal> {
                match self {
                    #(#arms)*
                }
                ::core::result::Result::Ok(())
            }
        }
    })
}

fn arguments(item: &DeriveInput) -> syn::Result<Args> {
    let tokens = match item.attrs.iter().find(|attr| attr.path().is_ident("recheck")) {
        Some(attr) => attr.meta.require_list()?.tokens.clone(),
        None => TokenStream::new(),
    };
    let errors = Errors::new();
    let args = args::message(tokens, &errors);
    errors.finish()?;
    Ok(args)
}

fn arm(krate: &Path, path: &TokenStream, fields: &Fields) -> TokenStream {
    let names: Vec<_> = (0..fields.len()).map(|position| format_ident!("field{position}")).collect();
    let members: Vec<Member> = fields.members().collect();
    quote! {
        #path { #(#members: #names),* } => {
            #(#krate::private::Recheck::recheck(#names)?;)*
        }
    }
}
