//! Rows in less memory: of a fact the values are kept, and the form that it has in common with the others once for all of them.

use std::sync::Arc;

use shared::record::form::Form;

use crate::slots::number_of;

/// A row by its values.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    pub form: &'a Arc<Form>,
    pub values: &'a [u8],
}

/// The forms of the facts that are held, by numbers that take less room than a pointer.
#[derive(Debug, Default)]
pub struct Shapes {
    known: Vec<Arc<Form>>,
}

/// More than all readers know whose facts come together in one partition.
const SHAPES_MAX: usize = 256;

impl Shapes {
    /// The number of a form, which stays; none where there are too many.
    pub fn number_of(&mut self, form: &Arc<Form>) -> Option<u32> {
        let known = self.known.iter().position(|known| Arc::ptr_eq(known, form));
        let number = known.or_else(|| {
            let is_new = self.known.len() < SHAPES_MAX;
            is_new.then(|| {
                self.known.push(Arc::clone(form));
                self.known.len() - 1
            })
        });
        number.map(number_of)
    }

    pub fn get(&self, number: u32) -> Option<&Arc<Form>> {
        self.known.get(number as usize)
    }
}
