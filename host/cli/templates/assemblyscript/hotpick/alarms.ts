// The optional part `alarms`. A policy with the function `alarm` exports all of it.
import { current } from "./exports";

export function alarms_fired(id: u32, now: u64): void {
  current().alarm(id, now);
}
