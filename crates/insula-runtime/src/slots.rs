//! Numbers of a plan's slots: inputs first, then what steps make.

use insula_plan::slot::{FdSlot, Input};

use crate::request::GivenFd;

/// Gives out slots while a plan is made. All inputs are named before the first step fills a slot.
#[derive(Debug, Default)]
pub(crate) struct SlotAllocator {
    inputs: Vec<Input>,
    given: Vec<GivenFd>,
    made: u16,
}

impl SlotAllocator {
    /// The slot of `input`.
    pub(crate) fn input(&mut self, input: Input) -> FdSlot {
        debug_assert_eq!(self.made, 0, "inputs come before what steps make");
        self.inputs.push(input);
        FdSlot(number(self.inputs.len()) - 1)
    }

    /// The slot of a descriptor that comes beside the plan.
    pub(crate) fn given(&mut self, fd: GivenFd) -> FdSlot {
        self.given.push(fd);
        self.input(Input::Given)
    }

    /// The slot of a detached mount that comes beside the plan.
    pub(crate) fn mount(&mut self, fd: GivenFd) -> FdSlot {
        self.given.push(fd);
        self.input(Input::Mount)
    }

    /// A slot for a step to fill.
    pub(crate) fn make(&mut self) -> FdSlot {
        self.made += 1;
        FdSlot(number(self.inputs.len()) + self.made - 1)
    }

    /// All inputs, and which of them come beside the plan.
    pub(crate) fn into_inputs(self) -> (Vec<Input>, Vec<GivenFd>) {
        (self.inputs, self.given)
    }
}

/// A plan beyond the bound of slots is refused by the executor, so a number that is cut off cannot be used.
fn number(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX / 2)
}
