//! `Recheck` of the archive that rkyv derives: that of its fields.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Field, Fields, Member, Path, Type, WherePredicate, parse_quote};

use crate::schema;
use crate::syntax::{Part, parts};

/// The impl.
pub(super) fn expand(tokens: TokenStream) -> syn::Result<TokenStream> {
    let item: DeriveInput = syn::parse2(tokens)?;
    let Args { krate, recursive, bounded } = arguments(&item)?;
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
    let parameters = generics.clone();
    let with = |field: &Field| {
        let usual = schema::archived_with(&krate, &parameters, recursive, &field.ty).filter(|_| !bounded);
        said(field).or(usual)
    };
    let fields = cases.iter().flat_map(|(_, fields)| *fields);
    let fields: Vec<(&Type, Option<Type>)> = fields.map(|field| (&field.ty, with(field))).collect();
    let mut bounds: Vec<WherePredicate> = Vec::new();
    bounds.extend(generics.type_params().map(|parameter| {
        let name = &parameter.ident;
        parse_quote!(#name: #krate::Message)
    }));
    // What rkyv asks of the fields for the archived type to exist. Of a recursive one's it asks nothing.
    for (ty, with) in fields.iter().filter(|_| !recursive) {
        match (schema::is_fixed(&generics, ty), with) {
            (true, _) if !bounded => {}
            (true, _) => bounds.extend(parts(ty).iter().map(|part| schema::is_asked(&krate, part))),
            (false, None) => bounds.push(schema::is_asked(&krate, &Part::whole(ty))),
            (false, Some(with)) => bounds.extend::<[WherePredicate; 2]>([
                parse_quote!(#with: #krate::private::rkyv::with::ArchiveWith<#ty>),
                parse_quote!(<#with as #krate::private::rkyv::with::ArchiveWith<#ty>>::Archived: #krate::private::Recheck),
            ]),
        }
    }
    generics.make_where_clause().predicates.extend(bounds);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    // A recursive one would ask itself.
    let needed = if recursive {
        quote!(true)
    } else {
        let archived = fields.iter().map(|(ty, with)| match with {
            None => quote!(#krate::Archived<#ty>),
            Some(with) => quote!(<#with as #krate::private::rkyv::with::ArchiveWith<#ty>>::Archived),
        });
        quote!(#krate::Describe::any(&[#(<#archived as #krate::private::Recheck>::NEEDED),*]))
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

/// How a field is archived, if it says so.
fn said(field: &Field) -> Option<Type> {
    let mut with = None;
    for attr in field.attrs.iter().filter(|attr| attr.path().is_ident("rkyv")) {
        let read = attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("with") {
                with = Some(meta.value()?.parse()?);
            }
            Ok(())
        });
        // rkyv's derive says what is wrong with it.
        read.ok()?;
    }
    with
}

/// What `#[recheck(..)]` says.
struct Args {
    krate: Path,
    recursive: bool,
    /// What the fields are made of stands in the bounds of what was derived.
    bounded: bool,
}

fn arguments(item: &DeriveInput) -> syn::Result<Args> {
    let mut args = Args { krate: parse_quote!(::shmrpc), recursive: false, bounded: false };
    for attr in item.attrs.iter().filter(|attr| attr.path().is_ident("recheck")) {
        attr.parse_nested_meta(|meta| {
            args.recursive |= meta.path.is_ident("recursive");
            args.bounded |= meta.path.is_ident("bounded");
            if meta.path.is_ident("crate") {
                args.krate = meta.value()?.call(Path::parse_mod_style)?;
            }
            Ok(())
        })?;
    }
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
