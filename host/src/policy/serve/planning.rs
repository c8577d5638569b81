//! Decides when a slot's instance plans picks ahead.

use std::sync::Arc;

use super::slot::{Contents, Slot, call};
use crate::policy::instance::Plan;

impl Slot {
    /// Returns the plan to pick by; the successor when a plan is used up.
    pub(super) fn current_plan(&self, contents: &mut Contents) -> Option<Arc<Plan>> {
        let plan = Arc::clone(self.plan.get().as_ref()?);
        if !plan.is_spent() {
            return Some(plan);
        }
        let next = match plan.successor() {
            Some(successor) => Some(Arc::clone(successor)),
            None => self.make_plan(contents).map(|next| Arc::new(next.after(&plan))),
        };
        self.plan.set(next);
        self.plan.get().clone()
    }

    /// Calls the policy to make the successor of a plan, while other threads use the rest of the plan.
    pub(super) fn plan_ahead(&self, plan: &Arc<Plan>) {
        let Some(mut contents) = self.try_hold() else { return };
        let is_current = self.plan.get().as_ref().is_some_and(|current| Arc::ptr_eq(current, plan));
        // Without a successor the policy is called again when the plan is used up.
        if is_current
            && plan.successor().is_none()
            && let Some(successor) = self.make_plan(&mut contents)
        {
            plan.succeed(successor);
        }
    }

    /// Replaces the plan after a notification of the policy, which makes the previous plan void.
    pub(super) fn replan(&self, contents: &mut Contents) {
        if self.makes_plans && contents.machine.has_instance() {
            let plan = self.make_plan(contents);
            self.plan.set(plan.map(Arc::new));
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
