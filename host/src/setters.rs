//! `with_*` methods for structs of options.

/// Implements a `with_*` method for each of these public fields.
macro_rules! setters {
    ($options:ident { $($setter:ident: $field:ident: $type:ty),* $(,)? }) => {
        impl $options {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $setter(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}

pub(crate) use setters;
