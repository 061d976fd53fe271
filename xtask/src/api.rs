//! What users of the crate can name, as text: `api.txt`, so that a review sees every change of it.
//!
//! Read from the sources, without a compiler: names within a signature are as the source spells them. What a
//! macro makes is listed by the macro's invocation. Hidden items are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::{
    Attribute, Field, Fields, ImplItem, Item, ItemImpl, ItemMacro, ItemUse, TraitItem, Type,
    UseTree, Visibility,
};

use crate::workspace;

pub const CRATE: &str = "src";

const HEAD: &str = "\
# What users of smoothxent can name, an item a line, sorted by path.
#
# Generated from src/; do not edit. `cargo xtask codegen` writes it anew.
";

/// The crate's list, as its sources are now.
pub fn of_crate() -> Result<String> {
    let read = |file: &str| {
        let path = workspace::root().join(CRATE).join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(format!("{HEAD}\n{}", list("smoothxent", &read)?))
}

/// The list of a crate whose files `read` gives, by their paths from the folder of lib.rs.
fn list(name: &str, read: &dyn Fn(&str) -> Result<String>) -> Result<String> {
    let mut sources = Sources { modules: BTreeMap::new() };
    sources.load(Vec::new(), read)?;
    let mut surface = Surface { sources: &sources, names: BTreeMap::new(), lines: BTreeSet::new() };
    surface.find(&[], name)?;
    surface.describe();
    let lines: Vec<String> = surface.lines.into_iter().map(|(_, line)| line + "\n").collect();
    Ok(lines.concat())
}

// ---------------------------------------------------------------- the sources

/// Names of modules from the root, which has none.
type Path = Vec<String>;

struct Module {
    items: Vec<Item>,
    /// Of the file that they are in.
    text: String,
}

/// All modules that are no tests, private ones among them.
struct Sources {
    modules: BTreeMap<Path, Module>,
}

/// Where an item is defined, and its name there.
type Definition = (Path, String);

enum Found {
    Module(Path),
    Item(Definition),
    OfAnotherCrate,
}

impl Sources {
    fn load(&mut self, path: Path, read: &dyn Fn(&str) -> Result<String>) -> Result<()> {
        let file = if path.is_empty() { "lib".to_owned() } else { path.join("/") } + ".rs";
        let text = read(&file)?;
        let parsed = syn::parse_file(&text).with_context(|| format!("{file} is no Rust"))?;
        self.add(path, parsed.items, text, read)
    }

    fn add(
        &mut self,
        path: Path,
        items: Vec<Item>,
        text: String,
        read: &dyn Fn(&str) -> Result<String>,
    ) -> Result<()> {
        for item in &items {
            let Item::Mod(module) = item else { continue };
            if is_for_tests(&module.attrs) {
                continue;
            }
            let inner = joined(&path, &module.ident.to_string());
            match &module.content {
                None => self.load(inner, read)?,
                Some((_, items)) => self.add(inner, items.clone(), text.clone(), read)?,
            }
        }
        self.modules.insert(path, Module { items, text });
        Ok(())
    }

    /// What `names` means within a module.
    fn resolve(&self, within: &[String], names: &[String]) -> Found {
        let (mut module, mut rest) = (within.to_vec(), names);
        while let [first, others @ ..] = rest {
            match first.as_str() {
                "crate" => module.clear(),
                "self" => {}
                "super" => drop(module.pop()),
                _ => break,
            }
            rest = others;
        }
        let [first, others @ ..] = rest else { return Found::Module(module) };
        let inner = joined(&module, first);
        if self.modules.contains_key(&inner) {
            return self.resolve(&inner, others);
        }
        let Some(Module { items, .. }) = self.modules.get(&module) else {
            return Found::OfAnotherCrate;
        };
        if items.iter().any(|item| name_of(item).is_some_and(|name| name == *first)) {
            return Found::Item((module, first.clone()));
        }
        let imports = items.iter().filter_map(|item| match item {
            Item::Use(import) => Some(import),
            _ => None,
        });
        for Import { names, bound } in imports.flat_map(imports_of) {
            // `use half;` names another crate, not itself.
            if bound == *first && names != [bound] {
                return match self.resolve(&module, &names) {
                    Found::Module(module) => self.resolve(&module, others),
                    found => found,
                };
            }
        }
        match items.iter().any(|item| macro_defines(item, first)) {
            true => Found::Item((module, first.clone())),
            false => Found::OfAnotherCrate,
        }
    }
}

struct Import {
    names: Path,
    /// The name that it has from then on.
    bound: String,
}

fn imports_of(import: &ItemUse) -> Vec<Import> {
    fn add(tree: &UseTree, before: &[String], found: &mut Vec<Import>) {
        match tree {
            UseTree::Path(path) => add(&path.tree, &joined(before, &path.ident.to_string()), found),
            UseTree::Group(group) => group.items.iter().for_each(|tree| add(tree, before, found)),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                let names = if name == "self" { before.to_vec() } else { joined(before, &name) };
                let bound = names.last().cloned().unwrap_or_default();
                found.push(Import { names, bound });
            }
            UseTree::Rename(rename) => found.push(Import {
                names: joined(before, &rename.ident.to_string()),
                bound: rename.rename.to_string(),
            }),
            UseTree::Glob(_) => {
                found.push(Import { names: joined(before, GLOB), bound: GLOB.into() });
            }
        }
    }
    let mut found = Vec::new();
    add(&import.tree, &[], &mut found);
    found
}

const GLOB: &str = "*";

fn joined(path: &[String], name: &str) -> Path {
    path.iter().cloned().chain([name.to_owned()]).collect()
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn visibility_of(item: &Item) -> Option<&Visibility> {
    Some(match item {
        Item::Const(item) => &item.vis,
        Item::Enum(item) => &item.vis,
        Item::Fn(item) => &item.vis,
        Item::Mod(item) => &item.vis,
        Item::Static(item) => &item.vis,
        Item::Struct(item) => &item.vis,
        Item::Trait(item) => &item.vis,
        Item::Type(item) => &item.vis,
        Item::Union(item) => &item.vis,
        Item::Use(item) => &item.vis,
        _ => return None,
    })
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether an attribute is `#[name(...)]` with this word in it.
fn has_attribute(attributes: &[Attribute], name: &str, word: &str) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident(name)
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == word)
    })
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    ["test", "doctest"].into_iter().any(|when| has_attribute(attributes, "cfg", when))
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    has_attribute(attributes, "doc", "hidden")
}

/// Whether an item is the definition of a macro that defines a type, a function or a constant of this name.
fn macro_defines(item: &Item, name: &str) -> bool {
    const KEYWORDS: [&str; 7] = ["const", "enum", "fn", "static", "struct", "trait", "type"];
    definition_of_macro(item).is_some_and(|(_, body)| {
        has_words(&body, &|[before, word]| KEYWORDS.contains(&before) && word == name)
    })
}

/// The name and the rules of `macro_rules! name { ... }`.
fn definition_of_macro(item: &Item) -> Option<(String, TokenStream)> {
    match item {
        Item::Macro(ItemMacro { ident: Some(ident), mac, .. }) => {
            Some((ident.to_string(), mac.tokens.clone()))
        }
        _ => None,
    }
}

/// Whether two words that follow each other, anywhere within, are looked for.
fn has_words(tokens: &TokenStream, wanted: &dyn Fn([&str; 2]) -> bool) -> bool {
    let mut before = String::new();
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Group(group) => has_words(&group.stream(), wanted),
        TokenTree::Ident(word) => {
            let word = word.to_string();
            let found = wanted([&before, &word]);
            before = word;
            found
        }
        TokenTree::Punct(_) | TokenTree::Literal(_) => {
            before.clear();
            false
        }
    })
}

// ---------------------------------------------------------------- the list

/// What can be named from outside.
struct Surface<'a> {
    sources: &'a Sources,
    /// The public paths of each definition.
    names: BTreeMap<Definition, BTreeSet<String>>,
    /// Each with what it is sorted by.
    lines: BTreeSet<(String, String)>,
}

impl Surface<'_> {
    /// Follows what is public in a module that is called `public`.
    fn find(&mut self, module: &[String], public: &str) -> Result<()> {
        let sources = self.sources;
        let Some(Module { items, .. }) = sources.modules.get(module) else {
            bail!("{public} was not read");
        };
        self.line(public, format!("pub mod {public}"));
        for item in items {
            let attributes = attributes_of(item);
            let hidden = is_for_tests(attributes) || is_hidden(attributes);
            if hidden || !visibility_of(item).is_some_and(is_public) {
                continue;
            }
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    self.find(&joined(module, &name), &format!("{public}::{name}"))?;
                }
                Item::Use(import) => {
                    for Import { names, bound } in imports_of(import) {
                        if bound == GLOB {
                            bail!("{public}: `pub use {}` says no names", names.join("::"));
                        }
                        let path = format!("{public}::{bound}");
                        match sources.resolve(module, &names) {
                            Found::Module(inner) => self.find(&inner, &path)?,
                            Found::Item(definition) => self.name(definition, path),
                            Found::OfAnotherCrate => {
                                self.line(&path, format!("pub use {} as {path}", names.join("::")));
                            }
                        }
                    }
                }
                other => {
                    if let Some(name) = name_of(other) {
                        let path = format!("{public}::{name}");
                        self.name((module.to_vec(), name), path);
                    }
                }
            }
        }
        Ok(())
    }

    fn name(&mut self, definition: Definition, path: String) {
        self.names.entry(definition).or_default().insert(path);
    }

    fn line(&mut self, path: &str, line: String) {
        self.lines.insert((path.to_owned(), line));
    }

    /// Of several public paths the shortest.
    fn path_of(&self, definition: &Definition) -> Option<&String> {
        let depth = |path: &&String| (path.matches("::").count(), (*path).clone());
        self.names.get(definition)?.iter().min_by_key(depth)
    }

    /// Writes the lines of all that was found.
    fn describe(&mut self) {
        let definitions: Vec<Definition> = self.names.keys().cloned().collect();
        for definition in &definitions {
            let Some(path) = self.path_of(definition).cloned() else { continue };
            for other in self.names[definition].clone() {
                if other != path {
                    self.line(&other, format!("pub use {path} as {other}"));
                }
            }
            let (module, name) = definition;
            let Module { items, text } = &self.sources.modules[module];
            let text = Text(text);
            match items.iter().find(|item| name_of(item).as_ref() == Some(name)) {
                Some(item) => self.describe_item(item, &path, text),
                None => self.line(&path, format!("pub {path}, which a macro makes")),
            }
        }
        for (module, Module { items, text }) in &self.sources.modules {
            let text = Text(text);
            for item in items {
                match item {
                    Item::Impl(item) => self.describe_impl(item, module, text),
                    Item::Macro(item) if definitions.iter().any(|(place, _)| place == module) => {
                        self.describe_macro(item, module, items, text);
                    }
                    _ => {}
                }
            }
        }
    }

    fn describe_item(&mut self, item: &Item, path: &str, text: Text<'_>) {
        let attributes: String = attributes_of(item)
            .iter()
            .filter(|attribute| {
                ["derive", "non_exhaustive", "must_use"]
                    .into_iter()
                    .any(|name| attribute.path().is_ident(name))
            })
            .map(|attribute| text.of(attribute) + " ")
            .collect();
        // From its name to its fields.
        let head = |kind: &str, name: &syn::Ident, end: usize| {
            let generics = text.between(end_of(name), end);
            format!("{attributes}pub {kind} {path}{generics}")
        };
        match item {
            Item::Const(item) => {
                let line = head("const", &item.ident, end_of(&item.ty));
                self.line(path, line);
            }
            Item::Static(item) => {
                let line = head("static", &item.ident, end_of(&item.ty));
                self.line(path, line);
            }
            Item::Type(item) => {
                let line = head("type", &item.ident, end_of(&item.ty));
                self.line(path, line);
            }
            Item::Fn(item) => {
                let line = format!("{attributes}pub {}", text.signature(&item.sig, path));
                self.line(path, line);
            }
            Item::Struct(item) => {
                let end = match &item.fields {
                    Fields::Named(fields) => start_of(fields),
                    Fields::Unnamed(fields) => start_of(fields),
                    Fields::Unit => start_of(&item.semi_token),
                };
                let mut line = head("struct", &item.ident, end);
                if !item.fields.iter().all(|field| is_public(&field.vis)) {
                    line += " with private fields";
                }
                self.line(path, line);
                let public = |(_, field): &(usize, &Field)| is_public(&field.vis);
                self.describe_fields(item.fields.iter().enumerate().filter(public), path, text);
            }
            Item::Union(item) => {
                let line = head("union", &item.ident, start_of(&item.fields));
                self.line(path, line);
            }
            Item::Enum(item) => {
                let line =
                    head("enum", &item.ident, item.brace_token.span.open().byte_range().start);
                self.line(path, line);
                for variant in &item.variants {
                    let path = format!("{path}::{}", variant.ident);
                    let is_default = variant.attrs.iter().any(|a| a.path().is_ident("default"));
                    let default = if is_default { "#[default] " } else { "" };
                    self.line(&path, format!("{default}pub {path}"));
                    // They are as public as the enum.
                    self.describe_fields(variant.fields.iter().enumerate(), &path, text);
                }
            }
            Item::Trait(item) => {
                let kind = if item.unsafety.is_some() { "unsafe trait" } else { "trait" };
                let line = head(kind, &item.ident, item.brace_token.span.open().byte_range().start);
                self.line(path, line);
                for inner in &item.items {
                    let (name, end) = match inner {
                        TraitItem::Const(inner) => (&inner.ident, end_of(&inner.ty)),
                        TraitItem::Fn(inner) => (&inner.sig.ident, end_of(&inner.sig)),
                        TraitItem::Type(inner) => (&inner.ident, end_of(&inner.semi_token)),
                        _ => continue,
                    };
                    let path = format!("{path}::{name}");
                    self.line(&path, format!("pub {path}{}", text.between(end_of(name), end)));
                }
            }
            _ => {}
        }
    }

    fn describe_fields<'f>(
        &mut self,
        fields: impl Iterator<Item = (usize, &'f Field)>,
        path: &str,
        text: Text<'_>,
    ) {
        for (index, field) in fields {
            let name = field.ident.as_ref().map_or(index.to_string(), ToString::to_string);
            let path = format!("{path}::{name}");
            self.line(&path, format!("pub {path}: {}", text.of(&field.ty)));
        }
    }

    fn describe_impl(&mut self, item: &ItemImpl, module: &[String], text: Text<'_>) {
        if is_for_tests(&item.attrs) {
            return;
        }
        let Type::Path(of) = &*item.self_ty else { return };
        let names: Path = of.path.segments.iter().map(|name| name.ident.to_string()).collect();
        let Found::Item(definition) = self.sources.resolve(module, &names) else { return };
        let Some(path) = self.path_of(&definition).cloned() else { return };
        let arguments = of.path.segments.last().map(|last| text.of(&last.arguments));
        let of = path.clone() + &arguments.unwrap_or_default();
        let generics = text.of(&item.generics);
        if let Some((of_trait, _)) = &item.trait_ {
            let names: Path = of_trait.segments.iter().map(|name| name.ident.to_string()).collect();
            let found = self.sources.resolve(module, &names);
            if !matches!(found, Found::Item(of_trait) if self.path_of(&of_trait).is_none()) {
                self.line(&path, format!("impl{generics} {} for {of}", text.of(of_trait)));
            }
            return;
        }
        for inner in &item.items {
            let (line, name) = match inner {
                ImplItem::Fn(inner) if is_public(&inner.vis) && !is_hidden(&inner.attrs) => {
                    let name = inner.sig.ident.to_string();
                    (text.signature(&inner.sig, &format!("{of}::{name}")), name)
                }
                ImplItem::Const(inner) if is_public(&inner.vis) && !is_hidden(&inner.attrs) => {
                    let constant = text.between(end_of(&inner.ident), end_of(&inner.ty));
                    (format!("const {of}::{}{constant}", inner.ident), inner.ident.to_string())
                }
                _ => continue,
            };
            self.line(&format!("{path}::{name}"), format!("pub {line}"));
        }
    }

    /// A line for each part of what is given to a macro that makes public items or implements traits.
    fn describe_macro(
        &mut self,
        item: &ItemMacro,
        module: &[String],
        items: &[Item],
        text: Text<'_>,
    ) {
        let Some(name) = item.mac.path.get_ident().filter(|_| item.ident.is_none()) else { return };
        let makes = items.iter().filter_map(definition_of_macro).any(|(defined, body)| {
            *name == defined.as_str()
                && has_words(&body, &|[before, word]| before == "pub" || word == "impl")
        });
        if !makes {
            return;
        }
        let place = joined(module, &format!("{name}!")).join("::");
        for part in text.of(&item.mac.tokens).split(';') {
            if !part.trim().is_empty() {
                // Behind everything that has a path.
                self.line(&format!("~{place}"), format!("{place} {}", part.trim()));
            }
        }
    }
}

/// The text of a file, and parts of it on one line.
#[derive(Clone, Copy)]
struct Text<'a>(&'a str);

impl Text<'_> {
    fn of(self, part: &impl Spanned) -> String {
        let Range { start, end } = part.span().byte_range();
        self.between(start, end)
    }

    /// `fn` with a path in place of its name.
    fn signature(self, signature: &syn::Signature, path: &str) -> String {
        let (whole, name) = (signature.span().byte_range(), signature.ident.span().byte_range());
        let before = self.between(whole.start, name.start);
        // That a function changes what it is given by value is its own affair.
        let after = self.between(name.end, whole.end).replace("(mut ", "(").replace(", mut ", ", ");
        format!("{before} {path}{after}")
    }

    /// Without comments, and without what rustfmt adds where it breaks lines.
    fn between(self, start: usize, end: usize) -> String {
        let part = self.0.get(start..end).unwrap_or_default();
        let lines = part.lines().map(|line| line.split("//").next().unwrap_or_default());
        let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        let apart = part.starts_with(char::is_whitespace) && !words.is_empty();
        let words = if apart { " " } else { "" }.to_owned() + &words.join(" ");
        words.replace("( ", "(").replace(", )", ")").replace("< ", "<").replace(", >", ">")
    }
}

fn start_of(part: &impl Spanned) -> usize {
    part.span().byte_range().start
}

fn end_of(part: &impl Spanned) -> usize {
    part.span().byte_range().end
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::{Result, bail};

    use super::{list, of_crate};
    use crate::workspace;

    /// As `cargo xtask codegen --check`, which needs libclang for other files.
    #[test]
    fn the_committed_list_is_up_to_date() {
        let committed = fs::read_to_string(workspace::root().join("api.txt")).unwrap();
        let present = of_crate().unwrap();
        let missing: Vec<&str> =
            present.lines().filter(|line| !committed.lines().any(|other| other == *line)).collect();
        let gone: Vec<&str> =
            committed.lines().filter(|line| !present.lines().any(|other| other == *line)).collect();
        assert!(
            present == committed,
            "the public API changed: run `cargo xtask codegen` and commit api.txt\n\
             new: {missing:#?}\ngone: {gone:#?}"
        );
    }

    fn list_of(files: &[(&str, &str)]) -> Result<Vec<String>> {
        let read = |name: &str| match files.iter().find(|(file, _)| *file == name) {
            Some((_, text)) => Ok((*text).to_owned()),
            None => bail!("no {name}"),
        };
        Ok(list("k", &read)?.lines().map(str::to_owned).collect())
    }

    #[test]
    fn a_name_is_listed_where_users_find_it() {
        let lib = "
            mod inner;
            pub mod outer;
            pub use inner::{Both, Thing, made};
            pub use half;
            pub(crate) use inner::Hidden;
            #[cfg(test)]
            mod tests { pub fn not_there() {} }
        ";
        let inner = "
            use crate::outer::Named;
            /// Text.
            #[derive(Clone)]
            pub struct Thing<'a, T> { pub a: &'a T, b: u8 }
            impl<'a, T> Thing<'a, T> {
                pub fn new(
                    mut a: &'a T, // why
                    b: u8,
                ) -> Self { Self { a, b } }
                fn private() {}
                #[doc(hidden)]
                pub fn for_benchmarks() {}
                pub const MOST: u8 = 3;
            }
            impl Named for Thing<'_, u8> {}
            impl Private for Thing<'_, u8> {}
            trait Private {}
            pub enum Both { One(u8), #[default] Other { x: f32 } }
            pub struct Hidden;
            macro_rules! functions { ($($name:ident;)*) => { $(pub fn $name() {})* pub fn made() {} } }
            macro_rules! private { ($name:ident) => { const $name: u8 = 1; } }
            functions! { first; second; }
            private!(X);
        ";
        let outer = "
            pub use crate::inner::Both;
            pub trait Named: Sized { const A: u8; fn f(&self) -> u8 { 1 } }
            pub unsafe fn call<T: Named>(x: T) -> u8 where T: Copy { 1 }
            pub const ALL: [u8; 2] = [1, 2];
            pub type Alias = u8;
        ";
        let files = [("lib.rs", lib), ("inner.rs", inner), ("outer.rs", outer)];
        let expected = [
            "pub mod k",
            "pub enum k::Both",
            "pub k::Both::One",
            "pub k::Both::One::0: u8",
            "#[default] pub k::Both::Other",
            "pub k::Both::Other::x: f32",
            "#[derive(Clone)] pub struct k::Thing<'a, T> with private fields",
            "impl Named for k::Thing<'_, u8>",
            "pub const k::Thing<'a, T>::MOST: u8",
            "pub k::Thing::a: &'a T",
            "pub fn k::Thing<'a, T>::new(a: &'a T, b: u8) -> Self",
            "pub use half as k::half",
            "pub k::made, which a macro makes",
            "pub mod k::outer",
            "pub const k::outer::ALL: [u8; 2]",
            "pub type k::outer::Alias = u8",
            "pub use k::Both as k::outer::Both",
            "pub trait k::outer::Named: Sized",
            "pub k::outer::Named::A: u8",
            "pub k::outer::Named::f(&self) -> u8",
            "pub unsafe fn k::outer::call<T: Named>(x: T) -> u8 where T: Copy",
            "inner::functions! first",
            "inner::functions! second",
        ];
        assert_eq!(list_of(&files).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_listed_is_an_error() {
        assert!(list_of(&[("lib.rs", "mod a; pub use a::*;"), ("a.rs", "")]).is_err());
        assert!(list_of(&[("lib.rs", "pub mod a;")]).is_err());
        assert!(list_of(&[("lib.rs", "fn")]).is_err());
    }
}
