//! Example programs that use hotpick, each under 100 lines: see the files beside this folder.
