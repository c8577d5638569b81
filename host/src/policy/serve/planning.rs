//! Decides when a slot's instance plans picks ahead.

use super::slot::{Contents, Slot, call};
use crate::policy::compile::has_stack;
use crate::policy::instance::Plan;

impl Slot {
    /// Makes more picks when a sequence is used up, by a thread that has come to its end.
    pub(super) fn plan_more(&self, contents: &mut Contents) {
        if self.plans.is_used_up() {
            match self.make_plan(contents) {
                None => self.plans.set(None),
                plan => self.plans.go_on(plan),
            }
        }
    }

    /// Makes more picks of a sequence before it is used up, while other threads use the rest of it.
    pub(super) fn plan_ahead(&self) {
        // What has been planned needs neither the instance nor a stack.
        if !self.plans.refill() || !has_stack() {
            return;
        }
        let Some(mut contents) = self.try_hold() else { return };
        // Another thread may have done it.
        if self.plans.refill() {
            let plan = self.make_plan(&mut contents);
            self.plans.go_on(plan);
        }
    }

    /// Replaces the plan after a notification of the policy, which makes the previous plan void.
    pub(super) fn replan(&self, contents: &mut Contents) {
        if self.makes_plans && contents.machine.has_instance() {
            let plan = self.make_plan(contents);
            self.plans.set(plan);
        }
    }

    fn make_plan(&self, contents: &mut Contents) -> Option<Plan> {
        let serial = contents.machine.serial();
        let instance = contents.machine.instance()?;
        let (plan, result) = match call(|| instance.plan(serial)) {
            Ok(plan) => (plan, Ok(())),
            Err(fault) => (None, Err(fault)),
        };
        self.after_call(contents, result);
        if contents.machine.instance().is_some_and(|instance| instance.has_new_timer()) {
            self.timer_set();
        }
        plan
    }
}
