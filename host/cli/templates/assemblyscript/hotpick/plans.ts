// The optional part `plans`. A policy with the function `plan` exports all of it.
import { current } from "./exports";
import { Plan, noPlan } from "./index";

// Kept while the host reads it.
let plan: Plan = noPlan();
const result = memory.data(12);

export function plans_make(budget: u32, random: u64, now: u64): usize {
  plan = current().plan(budget, random, now);
  store<u8>(result, plan.what);
  store<u32>(result, plan.picks.dataStart as u32, 4);
  store<u32>(result, plan.picks.length, 8);
  return result;
}
