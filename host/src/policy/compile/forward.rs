//! Has the exports of a component lifted from modules that only pass them on.
//!
//! wasmtime 48 looks up the core function of an export at each call. That takes a fifth of a pick's instructions if the
//! function is defined in the instance that exports it, and next to nothing if the instance imports it. So before a
//! component is compiled, its core functions are exported once more by a module that imports them. Calls do not pass
//! through that module: an imported function that is exported is the imported function.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use wasm_encoder::reencode::{self, Reencode, ReencodeComponent, component_utils};
use wasm_encoder::{Component, ComponentSectionId, RawSection};
use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentOuterAliasKind, ComponentTypeRef, ExternalKind, FuncType,
    Instance, Parser, Payload, TypeRef,
};

/// Levels of components within each other that are rewritten. Tools make two.
const LEVELS: u8 = 4;

/// Returns the component with its exports lifted from forwarding modules. A component that cannot be rewritten is
/// returned as it is, also if it is not valid. Public for a bench, which compares with the component that is compiled.
#[must_use]
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for a bench"))]
pub fn forwarded(component: &[u8]) -> Cow<'_, [u8]> {
    within(component, LEVELS)
}

fn within(component: &[u8], levels: u8) -> Cow<'_, [u8]> {
    rewrite(component, levels).map_or(Cow::Borrowed(component), Cow::Owned)
}

fn rewrite(bytes: &[u8], levels: u8) -> Option<Vec<u8>> {
    let levels = levels.checked_sub(1)?;
    let outline = Outline::read(bytes)?;
    let forwards = outline.forwards(bytes);
    if forwards.is_empty() && !outline.has_components {
        return None;
    }
    let mut component = Component::new();
    let mut rewriter = Rewriter { levels, forwards, alias_sections: 0 };
    rewriter.parse_component(&mut component, Parser::new(0), bytes).ok()?;
    Some(component.finish())
}

/// The outermost level of a component, as far as its exported core functions are concerned.
#[derive(Default)]
struct Outline<'a> {
    /// Core modules. `None`: it is not defined here.
    modules: Vec<Option<Range<usize>>>,
    /// Core instances, with the index of their module. `None`: it has none.
    instances: Vec<Option<u32>>,
    /// Core functions, each with the instance and the name of the export that it is an alias of.
    functions: Vec<Option<(u32, &'a str)>>,
    /// Core functions that are lifted.
    lifted: Vec<u32>,
    /// Each section of aliases.
    alias_sections: Vec<AliasSection>,
    /// Whether there are components within it.
    has_components: bool,
}

/// Numbers of items before a section of aliases, and the core functions that it defines.
struct AliasSection {
    modules: usize,
    instances: usize,
    functions: Range<usize>,
}

impl<'a> Outline<'a> {
    /// `None`: the component is not valid, or a component within it refers to its core modules, whose numbers will
    /// change.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut outline = Self::default();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.ok()?;
            match &payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentAliasSection(aliases) if depth > 1 => {
                    for alias in aliases.clone() {
                        let kind = ComponentOuterAliasKind::CoreModule;
                        if matches!(alias.ok()?, ComponentAlias::Outer { kind: outer, .. } if outer == kind) {
                            return None;
                        }
                    }
                }
                Payload::ModuleSection { unchecked_range, .. }
                | Payload::ComponentSection { unchecked_range, .. }
                    if unchecked_range.end > bytes.len() =>
                {
                    return None;
                }
                _ if depth == 1 => outline.add(payload).ok()?,
                _ => {}
            }
        }
        Some(outline)
    }

    fn add(&mut self, payload: Payload<'a>) -> wasmparser::Result<()> {
        match payload {
            Payload::ComponentSection { .. } => self.has_components = true,
            Payload::ModuleSection { unchecked_range, .. } => self.modules.push(Some(unchecked_range)),
            Payload::ComponentImportSection(section) => {
                for import in section {
                    if let ComponentTypeRef::Module(_) = import?.ty {
                        self.modules.push(None);
                    }
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    self.instances.push(match instance? {
                        Instance::Instantiate { module_index, .. } => Some(module_index),
                        Instance::FromExports(_) => None,
                    });
                }
            }
            Payload::ComponentAliasSection(section) => {
                let (modules, instances) = (self.modules.len(), self.instances.len());
                let before = self.functions.len();
                for alias in section {
                    match alias? {
                        ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::Func,
                            instance_index,
                            name,
                        } => self.functions.push(Some((instance_index, name))),
                        ComponentAlias::InstanceExport {
                            kind: wasmparser::ComponentExternalKind::Module,
                            ..
                        }
                        | ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. } => {
                            self.modules.push(None);
                        }
                        _ => {}
                    }
                }
                let functions = before..self.functions.len();
                self.alias_sections.push(AliasSection { modules, instances, functions });
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    match function? {
                        CanonicalFunction::Lift { core_func_index, .. } => self.lifted.push(core_func_index),
                        _ => self.functions.push(None),
                    }
                }
            }
            // Exporting a core module defines it once more.
            Payload::ComponentExportSection(section) => {
                for export in section {
                    if export?.kind == wasmparser::ComponentExternalKind::Module {
                        self.modules.push(None);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the forwarding modules, in the order of the sections before which they are inserted.
    fn forwards(&self, bytes: &'a [u8]) -> Vec<Forward<'a>> {
        let mut wanted = BTreeMap::<u32, BTreeMap<&str, FuncType>>::new();
        for (instance, name) in self.lifted.iter().filter_map(|at| *self.functions.get(*at as usize)?) {
            let names = wanted.entry(instance).or_default();
            if let Some(ty) = self.type_of(bytes, instance, name) {
                names.insert(name, ty);
            }
        }
        let forward = |(instance, functions): (u32, BTreeMap<&'a str, FuncType>)| {
            let is_of = |function: &Option<(u32, &str)>| {
                function.is_some_and(|(of, name)| of == instance && functions.contains_key(name))
            };
            let mut sections = self.alias_sections.iter();
            let section =
                sections.position(|section| self.functions[section.functions.clone()].iter().any(is_of))?;
            let AliasSection { modules, instances, .. } = self.alias_sections[section];
            Some(Forward { section, modules, instances, instance, functions })
        };
        let mut forwards: Vec<_> = wanted.into_iter().filter_map(forward).collect();
        forwards.sort_by_key(|forward| forward.section);
        forwards
    }

    /// Returns the type of a function that this instance exports. `None`: its module is not known.
    fn type_of(&self, bytes: &[u8], instance: u32, name: &str) -> Option<FuncType> {
        let module = (*self.instances.get(instance as usize)?)?;
        let module = self.modules.get(module as usize)?.clone()?;
        type_in(bytes.get(module)?, name)
    }
}

/// Returns the type of a function that a core module exports.
fn type_in(module: &[u8], name: &str) -> Option<FuncType> {
    let (mut types, mut functions) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    types.push(ty.ok()?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) = import.ok()?.ty {
                        functions.push(ty);
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    functions.push(ty.ok()?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.ok()?;
                    if export.kind == ExternalKind::Func && export.name == name {
                        let ty = functions.get(export.index as usize)?;
                        return types.get(*ty as usize).cloned();
                    }
                }
                return None;
            }
            _ => {}
        }
    }
    None
}

/// A module that imports functions of one core instance and exports them, and its instance.
struct Forward<'a> {
    /// Index of the section of aliases before which they are inserted.
    section: usize,
    /// Number of core modules and core instances that the component has before that.
    modules: usize,
    instances: usize,
    /// The instance that the functions are of.
    instance: u32,
    functions: BTreeMap<&'a str, FuncType>,
}

impl Forward<'_> {
    fn module(&self) -> Result<wasm_encoder::Module, reencode::Error<Infallible>> {
        let mut types = wasm_encoder::TypeSection::new();
        let mut imports = wasm_encoder::ImportSection::new();
        let mut exports = wasm_encoder::ExportSection::new();
        for (at, (name, ty)) in (0..).zip(&self.functions) {
            let encoded = |types: &[wasmparser::ValType]| -> Result<Vec<_>, _> {
                types.iter().map(|ty| reencode::RoundtripReencoder.val_type(*ty)).collect()
            };
            types.ty().function(encoded(ty.params())?, encoded(ty.results())?);
            imports.import("", name, wasm_encoder::EntityType::Function(at));
            exports.export(name, wasm_encoder::ExportKind::Func, at);
        }
        let mut module = wasm_encoder::Module::new();
        module.section(&types).section(&imports).section(&exports);
        Ok(module)
    }
}

/// Writes the component with the forwarding modules. What comes after them has other numbers.
struct Rewriter<'a> {
    /// Levels of components within this one that are rewritten.
    levels: u8,
    forwards: Vec<Forward<'a>>,
    /// Number of sections of aliases that have been written.
    alias_sections: usize,
}

impl Reencode for Rewriter<'_> {
    type Error = Infallible;
}

impl ReencodeComponent for Rewriter<'_> {
    fn module_index(&mut self, module: u32) -> u32 {
        shifted(module, self.forwards.iter().map(|forward| forward.modules))
    }

    fn instance_index(&mut self, instance: u32) -> u32 {
        shifted(instance, self.forwards.iter().map(|forward| forward.instances))
    }

    fn parse_component_payload(
        &mut self,
        component: &mut Component,
        payload: Payload<'_>,
        whole: &[u8],
    ) -> Result<(), reencode::Error<Infallible>> {
        match &payload {
            Payload::ComponentAliasSection(_) => {
                for at in 0..self.forwards.len() {
                    if self.forwards[at].section == self.alias_sections {
                        self.insert(component, at)?;
                    }
                }
                self.alias_sections += 1;
            }
            // Names of items, by numbers that are others now. Nobody reads them.
            Payload::CustomSection(_) => return Ok(()),
            _ => {}
        }
        component_utils::parse_component_payload(self, component, payload, whole)
    }

    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        _: Parser,
        module: &[u8],
    ) -> Result<(), reencode::Error<Infallible>> {
        component.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: module });
        Ok(())
    }

    fn parse_component_subcomponent(
        &mut self,
        component: &mut Component,
        _: Parser,
        inner: &[u8],
        _: &[u8],
    ) -> Result<(), reencode::Error<Infallible>> {
        let inner = within(inner, self.levels);
        component.section(&RawSection { id: ComponentSectionId::Component.into(), data: &inner });
        Ok(())
    }

    fn component_alias<'b>(
        &mut self,
        alias: ComponentAlias<'b>,
    ) -> Result<wasm_encoder::Alias<'b>, reencode::Error<Infallible>> {
        if let ComponentAlias::CoreInstanceExport { kind: ExternalKind::Func, instance_index, name } = alias
            && let Some(at) = self.forwards.iter().position(|forward| {
                forward.instance == instance_index && forward.functions.contains_key(name)
            })
        {
            let (instance, kind) = (self.forwarding(at).1, wasm_encoder::ExportKind::Func);
            return Ok(wasm_encoder::Alias::CoreInstanceExport { instance, kind, name });
        }
        component_utils::component_alias(self, alias)
    }
}

impl Rewriter<'_> {
    /// Returns the indices of a forwarding module and of its instance.
    fn forwarding(&self, at: usize) -> (u32, u32) {
        let index = |before: usize| u32::try_from(before + at).unwrap_or(u32::MAX);
        (index(self.forwards[at].modules), index(self.forwards[at].instances))
    }

    fn insert(&mut self, component: &mut Component, at: usize) -> Result<(), reencode::Error<Infallible>> {
        let instance = self.instance_index(self.forwards[at].instance);
        component.section(&wasm_encoder::ModuleSection(&self.forwards[at].module()?));
        let mut instances = wasm_encoder::InstanceSection::new();
        instances.instantiate(self.forwarding(at).0, [("", wasm_encoder::ModuleArg::Instance(instance))]);
        component.section(&instances);
        Ok(())
    }
}

/// Returns the new index of an item. `inserted`: before which indices one item each has been inserted.
fn shifted(index: u32, inserted: impl Iterator<Item = usize>) -> u32 {
    let before = inserted.filter(|before| *before <= index as usize).count();
    index.saturating_add(u32::try_from(before).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use wasmtime::component::{Component, Linker};

    use super::super::engine::engine;
    use super::*;

    fn validates(component: &[u8]) {
        wasmparser::Validator::new().validate_all(component).expect("a valid component");
    }

    /// Returns the results of functions without parameters.
    fn results(component: &[u8], names: &[&str]) -> Vec<u32> {
        let engine = engine().expect("an engine");
        let component = Component::from_binary(engine, component).expect("compiled");
        let mut store = wasmtime::Store::new(engine, ());
        store.set_epoch_deadline(1 << 60);
        let instance = Linker::new(engine).instantiate(&mut store, &component).expect("an instance");
        let call = |name: &&str| {
            let function = instance.get_typed_func::<(), (u32,)>(&mut store, name).expect("the function");
            function.call(&mut store, ()).expect("a result").0
        };
        names.iter().map(call).collect()
    }

    /// Counts the core modules at all levels.
    fn modules(component: &[u8]) -> usize {
        let payloads = Parser::new(0).parse_all(component);
        payloads.filter(|payload| matches!(payload, Ok(Payload::ModuleSection { .. }))).count()
    }

    /// Two instances of a module and one of another, with aliases, exports and modules between the lifts; and the same
    /// as a component within another.
    const ODD: &str = r#"
        (core module $m
          (import "" "n" (global $n i32))
          (type $result (func (result i32)))
          (func (export "get") (type $result) (global.get $n))
          (func (export "more") (type $result) (i32.add (global.get $n) (i32.const 1))))
        (core module $one (global (export "n") i32 (i32.const 10)))
        (core instance $one (instantiate $one))
        (core instance $a (instantiate $m (with "" (instance $one))))
        (func (export "a") (result u32) (canon lift (core func $a "get")))
        (core module $two (global (export "n") i32 (i32.const 20)))
        (core instance $two (instantiate $two))
        (core instance $b (instantiate $m (with "" (instance $two))))
        (alias core export $a "more" (core func $a-more))
        (func (export "more") (result u32) (canon lift (core func $a-more)))
        (func (export "b") (result u32) (canon lift (core func $b "get")))
        (core instance $bag (export "x" (func $a-more)))
        (core module $user (import "" "x" (func $x (result i32)))
          (func (export "y") (result i32) (i32.mul (call $x) (i32.const 3))))
        (core instance $user (instantiate $user (with "" (instance $bag))))
        (func (export "y") (result u32) (canon lift (core func $user "y")))"#;

    #[test]
    fn a_rewritten_component_returns_the_same() {
        let names = ["a", "more", "b", "y"];
        for (wat, more) in [
            (format!("(component {ODD})"), 3),
            (
                format!(
                    r#"(component (component $inner {ODD}) (instance $i (instantiate $inner))
                    (export "a" (func $i "a")) (export "more" (func $i "more"))
                    (export "b" (func $i "b")) (export "y" (func $i "y")))"#
                ),
                3,
            ),
        ] {
            let component = wat::parse_str(wat).expect("WAT");
            let rewritten = forwarded(&component);
            validates(&rewritten);
            assert_eq!(modules(&rewritten), modules(&component) + more);
            assert_eq!(results(&rewritten, &names), [10, 11, 20, 33]);
            assert_eq!(results(&component, &names), [10, 11, 20, 33]);
        }
    }

    #[test]
    fn what_cannot_be_rewritten_stays() {
        let outer = "(component (core module $m) (component (alias outer 1 0 (core module))))";
        for component in [wat::parse_str(outer).expect("WAT"), b"no component".to_vec()] {
            assert!(matches!(forwarded(&component), Cow::Borrowed(_)));
        }
        let valid = wat::parse_str(format!("(component {ODD})")).expect("WAT");
        for length in 0..valid.len() {
            // Whatever is returned, nothing panics.
            let _ = forwarded(&valid[..length]);
        }
    }

    #[test]
    fn the_standard_policies_are_rewritten() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/dist");
        let mut count = 0;
        for file in std::fs::read_dir(folder).expect("built policies").flatten() {
            if file.path().extension().is_some_and(|extension| extension == "wasm") {
                let bytes = std::fs::read(file.path()).expect("read");
                let rewritten = forwarded(&bytes);
                validates(&rewritten);
                assert_eq!(modules(&rewritten), modules(&bytes) + 1, "{:?}", file.path());
                count += 1;
            }
        }
        assert!(count >= 16);
    }
}
