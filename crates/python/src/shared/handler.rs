//! NumPy's data handler (its enhancement proposal 49): large arrays are born in shared memory.
//!
//! Everything here is laid out as NumPy's public headers have it, since NumPy 1.22, and found at run time
//! through the table of functions that NumPy offers to compiled extensions; so nothing is built against
//! NumPy. Small arrays, and large ones for which there is no shared memory, get theirs from NumPy's default
//! handler. Every array keeps the handler it was made with, which is why ours lives for ever.

use super::memory;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

const PAGE_BYTES: usize = 4096;

/// What NumPy calls the capsules of handlers.
const CAPSULE_NAME: &CStr = c"mem_handler";

// Places in NumPy's table of functions.
const GET_FEATURE_VERSION: usize = 211;
const SET_HANDLER: usize = 304;
const DEFAULT_HANDLER: usize = 306;

/// The version of NumPy's interface that has handlers: that of NumPy 1.22.
const FEATURE_VERSION_MIN: c_uint = 0xf;

/// `PyDataMemAllocator`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Functions {
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

// SAFETY: NumPy calls these functions, with this context, from any thread.
#[allow(unsafe_code)]
unsafe impl Send for Functions {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Functions {}

/// `PyDataMem_Handler`.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    functions: Functions,
}

/// NumPy's own functions.
static DEFAULT: OnceLock<Functions> = OnceLock::new();

#[allow(unsafe_code)]
mod functions {
    //! What NumPy calls.
    //!
    //! SAFETY, of all: NumPy passes sizes as for the functions of C, and only memory that one of these
    //! has returned. It learns of these functions after `DEFAULT` has been set.

    use super::{DEFAULT, Functions, PAGE_BYTES, c_void, memory};

    fn default() -> &'static Functions {
        DEFAULT.get().expect("set before NumPy learnt of us")
    }

    pub(super) unsafe extern "C" fn malloc(_: *mut c_void, n_bytes: usize) -> *mut c_void {
        if memory::is_to_be_shared(n_bytes)
            && let Some(at) = memory::arena().and_then(|arena| arena.allocate(n_bytes))
        {
            return at.as_ptr().cast();
        }
        let default = default();
        // SAFETY: see the module.
        unsafe { (default.malloc)(default.context, n_bytes) }
    }

    pub(super) unsafe extern "C" fn calloc(_: *mut c_void, n: usize, size: usize) -> *mut c_void {
        if let Some(n_bytes) = n.checked_mul(size)
            && memory::is_to_be_shared(n_bytes)
            && let Some(at) = memory::arena().and_then(|arena| arena.allocate_zeroed(n_bytes))
        {
            return at.as_ptr().cast();
        }
        let default = default();
        // SAFETY: see the module.
        unsafe { (default.calloc)(default.context, n, size) }
    }

    pub(super) unsafe extern "C" fn realloc(
        context: *mut c_void,
        at: *mut c_void,
        n_bytes: usize,
    ) -> *mut c_void {
        let Some(n_bytes_before) = own_size(at) else {
            let default = default();
            // SAFETY: see the module; it is none of ours, so it is the default handler's.
            return unsafe { (default.realloc)(default.context, at, n_bytes) };
        };
        if n_bytes <= n_bytes_before && n_bytes >= n_bytes_before / 2 {
            return at;
        }
        // SAFETY: as `malloc`; both ranges are as long as is copied, and they are different blocks.
        unsafe {
            let new = malloc(context, n_bytes);
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(
                    at.cast::<u8>(),
                    new.cast::<u8>(),
                    n_bytes_before.min(n_bytes),
                );
                memory::free(at.cast());
            }
            new
        }
    }

    pub(super) unsafe extern "C" fn free(_: *mut c_void, at: *mut c_void, n_bytes: usize) {
        if may_be_own(at) && memory::free(at.cast()) {
            return;
        }
        let default = default();
        // SAFETY: see the module; it is none of ours, so it is the default handler's.
        unsafe { (default.free)(default.context, at, n_bytes) }
    }

    /// Blocks start at the start of a page.
    fn may_be_own(at: *mut c_void) -> bool {
        !at.is_null() && (at as usize).is_multiple_of(PAGE_BYTES)
    }

    fn own_size(at: *mut c_void) -> Option<usize> {
        may_be_own(at).then(|| memory::size(at.cast())).flatten()
    }
}

/// NumPy's table of functions for compiled extensions.
#[derive(Clone, Copy)]
struct Table(*const *const c_void);

impl Table {
    /// Imports NumPy where that has not been done.
    #[allow(unsafe_code)]
    fn find(py: Python<'_>) -> PyResult<Table> {
        let module = match py.import(intern!(py, "numpy._core._multiarray_umath")) {
            Ok(module) => module,
            // Its name before NumPy 2.
            Err(_) => py.import(intern!(py, "numpy.core._multiarray_umath"))?,
        };
        let capsule = module.getattr(intern!(py, "_ARRAY_API"))?;
        // SAFETY: the object is one; where it is no capsule without a name, the result is null and
        // an exception set.
        let table = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), null_mut()) };
        if table.is_null() {
            return Err(PyErr::fetch(py));
        }
        let table = Table(table.cast());
        // SAFETY: this entry has had this meaning since long before handlers.
        let version = unsafe {
            let version: unsafe extern "C" fn() -> c_uint =
                std::mem::transmute(table.entry(GET_FEATURE_VERSION));
            version()
        };
        if version < FEATURE_VERSION_MIN {
            return Err(PyRuntimeError::new_err(
                "this NumPy cannot have its arrays made in shared memory: at least NumPy 1.22 is needed",
            ));
        }
        Ok(table)
    }

    /// # Safety
    ///
    /// The table is NumPy's, and at least so long.
    #[allow(unsafe_code)]
    unsafe fn entry(self, at: usize) -> *const c_void {
        // SAFETY: as the caller says.
        unsafe { *self.0.add(at) }
    }

    /// Has NumPy use a handler, in this thread's context; returns the one before.
    #[allow(unsafe_code)]
    fn set_handler<'py>(self, handler: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the table is of a NumPy that has this entry, a function of this signature, which
        // checks that it is given a handler and returns a new reference, or null with an exception.
        unsafe {
            let set: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject =
                std::mem::transmute(self.entry(SET_HANDLER));
            Bound::from_owned_ptr_or_err(handler.py(), set(handler.as_ptr()))
        }
    }

    /// Remembers NumPy's own functions.
    #[allow(unsafe_code)]
    fn keep_default(self, py: Python<'_>) -> PyResult<()> {
        // SAFETY: this entry is the address of a variable that holds the capsule of NumPy's own
        // handler, as long as NumPy is there, which is for ever.
        let functions = unsafe {
            let capsule: *mut ffi::PyObject = *self.entry(DEFAULT_HANDLER).cast();
            let handler = ffi::PyCapsule_GetPointer(capsule, CAPSULE_NAME.as_ptr());
            match handler.cast::<Handler>().as_ref() {
                Some(handler) => handler.functions,
                None => return Err(PyErr::fetch(py)),
            }
        };
        let _ = DEFAULT.set(functions);
        Ok(())
    }
}

/// Our handler.
#[allow(unsafe_code)]
fn capsule<'py>(py: Python<'py>, table: Table) -> PyResult<&'py Bound<'py, PyAny>> {
    static CAPSULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || {
        table.keep_default(py)?;
        let mut name = [0; 127];
        for (to, from) in name.iter_mut().zip(b"manyhands") {
            *to = *from as c_char;
        }
        let handler = Box::leak(Box::new(Handler {
            name,
            version: 1,
            functions: Functions {
                context: null_mut(),
                malloc: functions::malloc,
                calloc: functions::calloc,
                realloc: functions::realloc,
                free: functions::free,
            },
        }));
        // SAFETY: the handler lives for ever, and so does the name.
        unsafe {
            let handler = std::ptr::from_mut(handler).cast();
            let capsule = ffi::PyCapsule_New(handler, CAPSULE_NAME.as_ptr(), None);
            Bound::from_owned_ptr_or_err(py, capsule).map(Bound::unbind)
        }
    };
    Ok(CAPSULE.get_or_try_init(py, make)?.bind(py))
}

/// Have NumPy's large arrays made in shared memory from now on, in this context; returns the handler before.
#[pyfunction]
pub(crate) fn _begin_sharing(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let table = Table::find(py)?;
    table.set_handler(capsule(py, table)?)
}

/// Give NumPy back the handler that `_begin_sharing` returned.
#[pyfunction]
pub(crate) fn _end_sharing(before: &Bound<'_, PyAny>) -> PyResult<()> {
    Table::find(before.py())?.set_handler(before)?;
    Ok(())
}
