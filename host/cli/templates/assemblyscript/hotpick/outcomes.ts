// The optional part `outcomes`. A policy with the function `outcomes` exports all of it.
import { current } from "./exports";
import { Load, Outcome } from "./index";

export function outcomes_done(at: usize, count: i32, now: u64): void {
  const batch = new Array<Outcome>(count);
  for (let i = 0; i < count; i++) {
    const raw = at + 80 * i;
    let load_: Load | null = null;
    if (load<u8>(raw, 32) != 0) {
      load_ = new Load(load<f64>(raw, 40), load<f64>(raw, 48), load<f64>(raw, 56), load<f64>(raw, 64), load<f64>(raw, 72));
    }
    batch[i] = new Outcome(
      load<u64>(raw), load<u32>(raw, 8), load<u32>(raw, 12), load<u8>(raw, 16), load<u8>(raw, 17) != 0,
      load<u8>(raw, 18) != 0, load<u64>(raw, 24), load_,
    );
  }
  if (count > 0) heap.free(at);
  current().outcomes(batch, now);
}
