// The optional part `connectivity`. A policy with the function `connectivity` exports all of it.
import { current } from "./exports";
import { take } from "./index";

export function connectivity_changed(id: u32, state: u32, message: usize, length: usize, now: u64): void {
  current().connectivity(id, state, take(message, length), now);
}
