//! Lists into which the elements of an array are read.

/// A list that nearly always has one element, and then needs no allocation.
#[derive(Debug)]
pub(crate) struct SmallList<T> {
    first: Option<T>,
    more: Vec<T>,
}

/// A list into which elements are read in place. They are large: moving one costs as much as reading it.
pub(crate) trait Elements<T> {
    /// Adds an element, and returns its place.
    fn add(&mut self) -> &mut T;

    /// Removes the element that was added last.
    fn take_back(&mut self);
}

// === impl SmallList ===

impl<T> SmallList<T> {
    pub(crate) fn first(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.more)
    }
}

impl<T> Default for SmallList<T> {
    fn default() -> Self {
        Self { first: None, more: Vec::new() }
    }
}

impl<T: Default> Elements<T> for SmallList<T> {
    fn add(&mut self) -> &mut T {
        match &mut self.first {
            Some(_) => self.more.add(),
            first => first.insert(T::default()),
        }
    }

    fn take_back(&mut self) {
        if self.more.pop().is_none() {
            self.first = None;
        }
    }
}

impl<T: Default> Elements<T> for Vec<T> {
    fn add(&mut self) -> &mut T {
        let place = self.len();
        self.push(T::default());
        &mut self[place]
    }

    fn take_back(&mut self) {
        self.pop();
    }
}
