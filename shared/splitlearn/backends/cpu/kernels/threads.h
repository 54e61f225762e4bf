/* Threads: those of torch's OpenMP runtime, a second one beside which would fight it for the cores. torch loads libgomp
   on Linux. Elsewhere, and in a process without it, a task runs on the thread that asks, as a team of one. */

#ifndef SPLITLEARN_THREADS_H
#define SPLITLEARN_THREADS_H

#if defined(__linux__)
#define MAY_BE_ABSENT __attribute__((weak))
extern void GOMP_parallel(void (*task)(void *), void *data, unsigned n_threads, unsigned flags) MAY_BE_ABSENT;
extern int omp_get_thread_num(void) MAY_BE_ABSENT;
extern int omp_get_num_threads(void) MAY_BE_ABSENT;

/* Lets a team of `n_threads` call `task` at the same time, and waits for all of them. */
static inline void in_parallel(void (*task)(void *), void *data, unsigned n_threads) {
    if (GOMP_parallel)
        GOMP_parallel(task, data, n_threads, 0);
    else
        task(data);
}
static inline int thread_of_team(void) { return omp_get_thread_num ? omp_get_thread_num() : 0; }
static inline int team_size(void) { return omp_get_num_threads ? omp_get_num_threads() : 1; }
#else
static inline void in_parallel(void (*task)(void *), void *data, unsigned n_threads) {
    (void)n_threads;
    task(data);
}
static inline int thread_of_team(void) { return 0; }
static inline int team_size(void) { return 1; }
#endif

#endif
