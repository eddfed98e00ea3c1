/* How our functions in C are compiled. */

/* Machine code for several generations of processors; the loader picks the best that runs here. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define EXPORT __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EXPORT
#endif
#define INLINE static inline __attribute__((always_inline))
