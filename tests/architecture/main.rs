//! Holds the structure of the project against docs/ARCHITECTURE.md: who imports whom, how files open, what stands where.

mod files;
mod imports;
mod points;
mod reliability;
