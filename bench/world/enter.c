/* Runs a command in the world of the peers: joins the namespaces of its process 1 and starts the command in its
 * control group. Nothing else is done, so that what entering costs is small and can be measured by itself.
 *
 *   enter PID CONTROL-GROUP-FOLDER COMMAND…
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) < 0) { fprintf(stderr, "enter: %s: %s\n", #call, strerror(errno)); _exit(125); } } while (0)

int main(int argc, char **argv) {
    if (argc < 4) { fputs("usage: enter PID CONTROL-GROUP-FOLDER COMMAND…\n", stderr); return 2; }
    int group = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC), status;
    CHECK(group);
    int world = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
    CHECK(world);
    CHECK(setns(world, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP));
    struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = group };
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    CHECK(child);
    if (child == 0) {
        execvp(argv[3], argv + 3);
        fprintf(stderr, "enter: %s: %s\n", argv[3], strerror(errno));
        _exit(127);
    }
    CHECK(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
