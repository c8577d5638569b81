// Renames exports: those of a component have names that are invalid in AssemblyScript. Used by asc, with
// `--transform ./hotpick/transform.js`.

const parts = {
  exports: {
    lifecycle_init: "lifecycle@0.1.0#init",
    endpoints_changed: "endpoints@0.1.0#changed",
    endpoints_ready: "endpoints@0.1.0#ready",
    picker_pick: "picker@0.1.0#pick",
  },
  outcomes: { outcomes_done: "outcomes@0.1.0#done" },
  plans: { plans_make: "plans@0.1.0#make" },
  connectivity: { connectivity_changed: "connectivity@0.1.0#changed" },
  alarms: { alarms_fired: "alarms@0.1.0#fired" },
  handover: { handover_save: "handover@0.1.0#save", handover_restore: "handover@0.1.0#restore" },
  about: { about_describe: "about@0.1.0#describe" },
};

export default class {
  afterCompile(module) {
    for (const [file, names] of Object.entries(parts)) {
      for (const [name, exported] of Object.entries(names)) {
        if (!module.getExport(name)) {
          if (file !== "exports") continue;
          throw new Error('the policy does not export its functions: add `export * from "../hotpick/exports";`');
        }
        module.removeExport(name);
        module.addFunctionExport(`hotpick/${file}/${name}`, `hotpick:policy/${exported}`);
      }
    }
  }
}
