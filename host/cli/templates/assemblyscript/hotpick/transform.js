// Renames exports: those of a component have names that are invalid in AssemblyScript. Used by asc, with
// `--transform ./hotpick/transform.js`.

const names = {
  lifecycle_init: "hotpick:policy/lifecycle@0.1.0#init",
  endpoints_changed: "hotpick:policy/endpoints@0.1.0#changed",
  endpoints_ready: "hotpick:policy/endpoints@0.1.0#ready",
  picker_pick: "hotpick:policy/picker@0.1.0#pick",
};

export default class {
  afterCompile(module) {
    for (const [name, exported] of Object.entries(names)) {
      module.removeExport(name);
      module.addFunctionExport(`hotpick/exports/${name}`, exported);
    }
  }
}
