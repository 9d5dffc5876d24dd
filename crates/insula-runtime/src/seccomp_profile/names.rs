//! The names of system calls by what they are for. A name that only one architecture has is no rule on the other.

/// Allowed in every container. What they reach is bounded by the container's namespaces, ids and mounts.
pub(super) const ALLOWED: &[&str] = &[
    // Files and directories, by path beneath the container's own root or by descriptor.
    "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64",
    "fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr file_setattr",
    "flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64",
    "getxattr getxattrat lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr",
    "lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2",
    "pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat",
    "renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range",
    "syncfs tee truncate umask unlink unlinkat utime utimensat utimes write writev cachestat",
    // Being told of changes to files; the instances count against the container's own user namespace.
    "fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
    // The mounts of its own mount namespace, to look at.
    "listmount statmount",
    // Its own memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect",
    "mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Processes, threads and signals of its own pid namespace.
    "execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list",
    "get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get",
    "ioprio_set kill pidfd_getfd pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease restart_syscall rseq",
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait",
    "rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam",
    "sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler",
    "sched_yield set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid sigaltstack",
    "tgkill times tkill vfork wait4 waitid",
    // Segment registers and descriptor tables of a thread (x86-64 only).
    "arch_prctl modify_ldt",
    // The kernel's own trampolines of uprobes: refusing them would kill a program that the host observes.
    "uprobe uretprobe",
    // Who it is, within its private range of ids.
    "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups",
    "setregid setresgid setresuid setreuid setuid",
    // Restricting itself further.
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules seccomp",
    // Clocks and timers, to read and to wait for; setting them needs a right of the first user namespace anyway.
    "adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause",
    "setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create",
    "timerfd_gettime timerfd_settime",
    // Waiting for descriptors, and the older asynchronous input and output.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd",
    "eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit poll ppoll pselect6 select signalfd",
    "signalfd4",
    // Sockets that are open already; `socket` itself has a rule of its own.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg",
    "sendto setsockopt shutdown socketpair",
    // Pipes, and System V and POSIX objects of its own IPC namespace.
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2",
    "semctl semget semop semtimedop shmat shmctl shmdt shmget",
    // The machine, to look at; `reboot` only ends the container's own pid namespace.
    "getrandom reboot sysinfo uname",
];

/// With `CAP_SYS_ADMIN` of the container's user namespace: its mounts, names and further namespaces.
pub(super) const WITH_SYS_ADMIN: &[&str] = &[
    "clone clone3 fanotify_init fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr",
    "pivot_root setdomainname sethostname setns umount2 unshare",
    // An init system makes session keyrings; every user id of the container is private, and so are its keys.
    "add_key keyctl request_key",
];

/// With `CAP_SYS_CHROOT`.
pub(super) const WITH_SYS_CHROOT: &[&str] = &["chroot"];

/// With `CAP_DAC_READ_SEARCH`: opening a file by its number passes by the directories above it.
pub(super) const WITH_DAC_READ_SEARCH: &[&str] = &["open_by_handle_at"];

/// With `CAP_SYS_NICE`: where memory lies.
pub(super) const WITH_SYS_NICE: &[&str] = &["get_mempolicy mbind set_mempolicy set_mempolicy_home_node"];

/// With `CAP_SYS_PTRACE`: other processes' memory.
pub(super) const WITH_SYS_PTRACE: &[&str] = &["kcmp process_madvise process_vm_readv process_vm_writev ptrace"];

/// Answered as by a kernel that does not have them, so that programs take the way they have without.
///
/// - io_uring performs other system calls where no filter sees them, and had more holes than any other part.
/// - clone3 hides its flags in memory, where a filter cannot read them; the C library goes back to clone.
/// - Keyrings are not named by namespaces alone; a session keyring is inherited from who started the container.
/// - The namespaces of the machine are none of a container's business.
pub(super) const AS_IF_ABSENT: &[&str] =
    &["io_uring_enter io_uring_register io_uring_setup clone3 add_key keyctl request_key listns"];
