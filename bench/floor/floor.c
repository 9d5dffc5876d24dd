/* The kernel floor: one container start, run and end with the same kernel work as Insula's and nothing around it.
 *
 * No daemon, no state, no log, no errors worth reading: namespaces, id map, control groups, detached idmapped image
 * root, a file system in memory per writable place, a routed veth pair, masks, capabilities, a system call filter,
 * exec, wait, tear-down. Its only state are mounts and control groups.
 *
 *   floor run IMAGE-MOUNT NUMBER COMMAND…    one container; exit status of COMMAND
 *   floor hold IMAGE-MOUNT COUNT COMMAND…    COUNT containers, "ready" on stdout, ended when stdin ends
 *   floor hold IMAGE-MOUNT COUNT @init PROGRAM CONFIG
 *                                            the same with Insula's own process 1 and what it is to run
 *   floor exec PID COMMAND…                  joins all namespaces of PID, as nsenter -a does
 *   floor net NUMBER COMMAND…                makes a user and a network namespace with the container's veth pair and runs
 *                                            COMMAND with them as descriptors 100 and 101, for a runtime to join
 *
 * IMAGE-MOUNT is the mounted image; NUMBER (0 to 9999) makes names and ids of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/mount.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) < 0) { fprintf(stderr, "floor:%d: %s: %s\n", __LINE__, #call, strerror(errno)); _exit(125); } } while (0)
#define IDS 65536

static int fsopen_(const char *type) { return syscall(SYS_fsopen, type, 1); }
static int fsset(int fd, const char *key, const char *value) { return syscall(SYS_fsconfig, fd, 1, key, value, 0); }
static int fssetfd(int fd, const char *key, int value) { return syscall(SYS_fsconfig, fd, 5, key, NULL, value); }
static int fscreate(int fd) { return syscall(SYS_fsconfig, fd, 6, NULL, NULL, 0); }
static int fsmount_(int fd, int attributes) { int m = syscall(SYS_fsmount, fd, 1, attributes); close(fd); return m; }
static int open_tree_(int at, const char *path, unsigned flags) { return syscall(SYS_open_tree, at, path, flags | 1 | O_CLOEXEC); }
static int attach(int mount, int at, const char *path) { return syscall(SYS_move_mount, mount, "", at, path, 4 | (*path ? 0 : 0x40)); }
struct mount_attributes { unsigned long long set, clear, propagation, userns; };
static int attributes(int fd, unsigned long long set, int userns) {
    struct mount_attributes a = { .set = set | (userns >= 0 ? 0x100000 : 0), .userns = userns >= 0 ? userns : 0 };
    return syscall(SYS_mount_setattr, fd, "", 0x1000, &a, sizeof a);
}
static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int n = write(fd, text, strlen(text));
    close(fd);
    return n;
}

/* ---- control groups -------------------------------------------------------------------------------------------- */
static const char *v1[] = { "memory", "pids", "cpu", "devices" };
#define V1 (sizeof v1 / sizeof *v1)
static int pure_v2(void) { return access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0; }
static const char *v2_root(void) { return pure_v2() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified"; }
static void cgroup_path(char *out, const char *root, int number, const char *file) {
    sprintf(out, "%s/insula.slice/floor/%d%s", root, number, file);
}
static int cgroups_make(int number) {
    char path[256], root[64];
    for (unsigned i = 0; !pure_v2() && i < V1; i++) {
        sprintf(root, "/sys/fs/cgroup/%s", v1[i]);
        cgroup_path(path, root, number, "");
        CHECK(mkdir(path, 0755));
    }
    if (!pure_v2()) {
        static const char *allowed[] = { "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm" };
        cgroup_path(path, "/sys/fs/cgroup/pids", number, "/pids.max");
        CHECK(put(path, "512"));
        cgroup_path(path, "/sys/fs/cgroup/devices", number, "/devices.deny");
        CHECK(put(path, "a"));
        cgroup_path(path, "/sys/fs/cgroup/devices", number, "/devices.allow");
        for (unsigned i = 0; i < 8; i++) CHECK(put(path, allowed[i]));
    }
    cgroup_path(path, v2_root(), number, "");
    CHECK(mkdir(path, 0755));
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd);
    return fd;
}
/* A thread that moves itself is spared the grace period that moving another process costs. */
static void cgroups_enter(const char *group) {
    char path[256];
    for (unsigned i = 0; !pure_v2() && i < V1; i++) {
        sprintf(path, "/sys/fs/cgroup/%s/insula.slice/floor%s/tasks", v1[i], group);
        CHECK(put(path, "0"));
    }
}
static void cgroups_remove(int number) {
    char path[256], root[64];
    for (unsigned i = 0; !pure_v2() && i < V1; i++) {
        sprintf(root, "/sys/fs/cgroup/%s", v1[i]);
        cgroup_path(path, root, number, "");
        rmdir(path);
    }
    cgroup_path(path, v2_root(), number, "");
    rmdir(path);
}

/* ---- links ----------------------------------------------------------------------------------------------------- */
static char nl[8192];
static int nl_length, nl_acks;
static struct nlmsghdr *nl_begin(int type, int flags, const void *body, int size) {
    struct nlmsghdr *h = (void *)(nl + nl_length);
    memset(h, 0, NLMSG_SPACE(size));
    h->nlmsg_len = NLMSG_LENGTH(size);
    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    memcpy(NLMSG_DATA(h), body, size);
    nl_acks++;
    return h;
}
static struct rtattr *nl_put(struct nlmsghdr *h, int type, const void *data, int size) {
    struct rtattr *a = (void *)((char *)h + NLMSG_ALIGN(h->nlmsg_len));
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(size);
    if (size) memcpy(RTA_DATA(a), data, size);
    h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + RTA_ALIGN(a->rta_len);
    return a;
}
static void nl_nest_end(struct nlmsghdr *h, struct rtattr *a) { a->rta_len = (char *)h + h->nlmsg_len - (char *)a; }
static void nl_end(struct nlmsghdr *h) { nl_length += NLMSG_ALIGN(h->nlmsg_len); }
static void nl_send(int fd) {
    static char answer[16384];
    CHECK(send(fd, nl, nl_length, 0));
    while (nl_acks > 0) {
        int n = recv(fd, answer, sizeof answer, 0);
        CHECK(n);
        for (struct nlmsghdr *h = (void *)answer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            if (h->nlmsg_type != NLMSG_ERROR) continue;
            int error = ((struct nlmsgerr *)NLMSG_DATA(h))->error;
            nl_acks--;
            if (error && error != -EEXIST) { fprintf(stderr, "floor: netlink: %s\n", strerror(-error)); _exit(125); }
        }
    }
    nl_length = 0;
}
static void nl_address(int index, int family, const void *address, int prefix) {
    struct ifaddrmsg body = { .ifa_family = family, .ifa_prefixlen = prefix, .ifa_index = index, .ifa_flags = IFA_F_NODAD };
    struct nlmsghdr *h = nl_begin(RTM_NEWADDR, NLM_F_CREATE, &body, sizeof body);
    nl_put(h, IFA_LOCAL, address, family == AF_INET ? 4 : 16);
    nl_put(h, IFA_ADDRESS, address, family == AF_INET ? 4 : 16);
    nl_end(h);
}
static void nl_route(int index, int family, const void *to, int prefix, const void *via) {
    struct rtmsg body = { .rtm_family = family, .rtm_dst_len = prefix, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC,
        .rtm_scope = via || family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK, .rtm_type = RTN_UNICAST, .rtm_flags = via ? RTNH_F_ONLINK : 0 };
    struct nlmsghdr *h = nl_begin(RTM_NEWROUTE, NLM_F_CREATE, &body, sizeof body);
    if (prefix) nl_put(h, RTA_DST, to, family == AF_INET ? 4 : 16);
    if (via) nl_put(h, RTA_GATEWAY, via, family == AF_INET ? 4 : 16);
    nl_put(h, RTA_OIF, &index, 4);
    nl_end(h);
}
static void nl_neighbour(int index, int family, const void *address, const void *mac) {
    struct ndmsg body = { .ndm_family = family, .ndm_ifindex = index, .ndm_state = NUD_PERMANENT };
    struct nlmsghdr *h = nl_begin(RTM_NEWNEIGH, NLM_F_CREATE, &body, sizeof body);
    nl_put(h, NDA_DST, address, family == AF_INET ? 4 : 16);
    nl_put(h, NDA_LLADDR, mac, 6);
    nl_end(h);
}
static void nl_up(int index) {
    struct ifinfomsg body = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
    nl_end(nl_begin(RTM_NEWLINK, 0, &body, sizeof body));
}
static const unsigned char gateway4[4] = { 169, 254, 1, 1 };
static const unsigned char gateway6[16] = { 0xfe, 0x80, [15] = 1 };
static const unsigned char host_mac[6] = { 2, 0x66, 0x6c, 0, 0, 1 };
static void addresses(int number, unsigned char *a4, unsigned char *a6, unsigned char *mac) {
    unsigned char v4[4] = { 100, 127, number >> 8, number }, m[6] = { 2, 0x66, 0x6c, 1, number >> 8, number };
    unsigned char v6[16] = { 0xfd, 0x66, [14] = number >> 8, [15] = number };
    memcpy(a4, v4, 4); memcpy(a6, v6, 16); memcpy(mac, m, 6);
}
static void link_outside(int fd, int number, int netns) {
    unsigned char a4[4], a6[16], mac[6];
    char name[16];
    addresses(number, a4, a6, mac);
    sprintf(name, "insulafloor%d", number);
    struct ifinfomsg body = { 0 };
    struct nlmsghdr *h = nl_begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    nl_put(h, IFLA_IFNAME, name, strlen(name) + 1);
    nl_put(h, IFLA_ADDRESS, host_mac, 6);
    struct rtattr *info = nl_put(h, IFLA_LINKINFO, NULL, 0);
    nl_put(h, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = nl_put(h, IFLA_INFO_DATA, NULL, 0), *peer = nl_put(h, VETH_INFO_PEER, NULL, 0);
    memset((char *)h + h->nlmsg_len, 0, sizeof body);
    h->nlmsg_len += sizeof body;
    nl_put(h, IFLA_IFNAME, "eth0", 5);
    nl_put(h, IFLA_ADDRESS, mac, 6);
    nl_put(h, IFLA_NET_NS_FD, &netns, 4);
    nl_nest_end(h, peer); nl_nest_end(h, data); nl_nest_end(h, info);
    nl_end(h);
    nl_send(fd);
    int index = if_nametoindex(name);
    nl_up(index);
    nl_neighbour(index, AF_INET, a4, mac);
    nl_neighbour(index, AF_INET6, a6, mac);
    nl_route(index, AF_INET, a4, 32, NULL);
    nl_route(index, AF_INET6, a6, 128, NULL);
    nl_send(fd);
}
static void link_inside(int number) {
    unsigned char a4[4], a6[16], mac[6];
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    CHECK(fd);
    addresses(number, a4, a6, mac);
    int index = if_nametoindex("eth0");
    nl_up(1);
    nl_up(index);
    nl_address(index, AF_INET, a4, 32);
    nl_address(index, AF_INET6, a6, 128);
    nl_neighbour(index, AF_INET, gateway4, host_mac);
    nl_neighbour(index, AF_INET6, gateway6, host_mac);
    nl_route(index, AF_INET, NULL, 0, gateway4);
    nl_route(index, AF_INET6, NULL, 0, gateway6);
    nl_send(fd);
    close(fd);
}

/* ---- mounts ---------------------------------------------------------------------------------------------------- */
enum { ROOT, ETC, VAR, HOME, SUPER, TMP, RUN, DATA, SW, DEV, SHM, MOUNTS };
static const char *targets[MOUNTS] = { "", "etc", "var", "home", "root", "tmp", "run", "data", "sw", "dev", "dev/shm" };
static const struct { const char *name; int minor, major; } nodes[6] = { { "null", 3, 1 }, { "zero", 5, 1 }, { "full", 7, 1 },
    { "random", 8, 1 }, { "urandom", 9, 1 }, { "tty", 0, 5 } };
static const char *links[5][2] = { { "fd", "/proc/self/fd" }, { "stdin", "/proc/self/fd/0" }, { "stdout", "/proc/self/fd/1" },
    { "stderr", "/proc/self/fd/2" }, { "ptmx", "pts/ptmx" } };
static const char *folders[3] = { "pts", "shm", "mqueue" };
static const char *files[4][2] = { { "u/hostname", "floor\n" }, { "u/hosts", "127.0.0.1 localhost\n" },
    { "u/resolv.conf", "nameserver 169.254.1.1\n" }, { "u/machine-id", "0123456789abcdef0123456789abcdef\n" } };

static int memory(const char *size, const char *mode, int base) {
    char owner[16];
    sprintf(owner, "%d", base);
    int fs = fsopen_("tmpfs");
    fsset(fs, "size", size); fsset(fs, "nr_inodes", "8192"); fsset(fs, "mode", mode); fsset(fs, "uid", owner); fsset(fs, "gid", owner);
    CHECK(fscreate(fs));
    return fsmount_(fs, MOUNT_ATTR_NOSUID | (strcmp(size, "5m") ? MOUNT_ATTR_NODEV : 0));
}
static int overlay(const char *image, const char *place, const char *size, int base, int userns) {
    char path[512];
    struct stat s;
    sprintf(path, "%s/%s", image, place);
    int lower = open_tree_(AT_FDCWD, path, 0);
    CHECK(lower);
    CHECK(attributes(lower, MOUNT_ATTR_RDONLY, userns));
    CHECK(fstat(lower, &s));
    int upper = memory(size, "0700", base);
    CHECK(mkdirat(upper, "u", 0700)); CHECK(mkdirat(upper, "w", 0700));
    CHECK(fchownat(upper, "u", base, base, 0)); CHECK(fchmodat(upper, "u", s.st_mode & 07777, 0));
    for (int i = 0; !strcmp(place, "etc") && i < 4; i++) {
        int file = openat(upper, files[i][0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        CHECK(write(file, files[i][1], strlen(files[i][1])));
        CHECK(fchown(file, base, base));
        close(file);
    }
    int u = openat(upper, "u", O_PATH | O_CLOEXEC), w = openat(upper, "w", O_PATH | O_CLOEXEC);
    int fs = fsopen_("overlay");
    CHECK(fssetfd(fs, "lowerdir+", lower)); CHECK(fssetfd(fs, "upperdir", u)); CHECK(fssetfd(fs, "workdir", w));
    fsset(fs, "index", "off"); fsset(fs, "metacopy", "off"); fsset(fs, "redirect_dir", "off"); fsset(fs, "xino", "off");
    CHECK(syscall(SYS_fsconfig, fs, 0, "volatile", NULL, 0));
    CHECK(fscreate(fs));
    int mount = fsmount_(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    close(lower); close(upper); close(u); close(w);
    return mount;
}
static void mounts_outside(const char *image, int base, int userns, int *mounts) {
    mounts[ROOT] = open_tree_(AT_FDCWD, image, 0);
    CHECK(attributes(mounts[ROOT], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, userns));
    mounts[ETC] = overlay(image, "etc", "20m", base, userns);
    mounts[VAR] = overlay(image, "var", "200m", base, userns);
    mounts[HOME] = overlay(image, "home", "50m", base, userns);
    mounts[SUPER] = overlay(image, "root", "20m", base, userns);
    mounts[TMP] = memory("200m", "1777", base);
    mounts[RUN] = memory("20m", "0755", base);
    for (int i = DATA; i <= SW; i++) {
        char path[512];
        sprintf(path, "%s/%s", image, targets[i]);
        mounts[i] = open_tree_(AT_FDCWD, path, 0);
        CHECK(attributes(mounts[i], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, userns));
    }
    mounts[SHM] = memory("64m", "1777", base);
    int dev = mounts[DEV] = memory("5m", "0755", base);
    for (int i = 0; i < 6; i++) {
        CHECK(mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
        CHECK(fchmodat(dev, nodes[i].name, 0666, 0));
        CHECK(fchownat(dev, nodes[i].name, base, base, 0));
    }
    for (int i = 0; i < 5; i++) {
        CHECK(symlinkat(links[i][1], dev, links[i][0]));
        CHECK(fchownat(dev, links[i][0], base, base, AT_SYMLINK_NOFOLLOW));
    }
    for (int i = 0; i < 3; i++) {
        CHECK(mkdirat(dev, folders[i], 0755));
        CHECK(fchownat(dev, folders[i], base, base, 0));
    }
}
static int plain(const char *type) {
    int fs = fsopen_(type);
    CHECK(fs);
    CHECK(fscreate(fs));
    return fsmount_(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}
static void mounts_inside(int *mounts) {
    static const char *masked[] = { "proc/acpi", "proc/asound", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats",
        "proc/sched_debug", "proc/scsi", "proc/timer_list", "proc/timer_stats", "sys/devices/virtual/powercap", "sys/firmware" };
    static const char *read_only[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };
    struct stat s;
    CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    CHECK(attach(mounts[ROOT], AT_FDCWD, "/tmp"));
    CHECK(chdir("/tmp"));
    int proc = plain("proc"), sys = plain("sysfs"), queue = plain("mqueue");
    CHECK(attach(proc, AT_FDCWD, "proc"));
    CHECK(attributes(sys, MOUNT_ATTR_RDONLY, -1));
    CHECK(attach(sys, AT_FDCWD, "sys"));
    for (int i = ETC; i <= SHM; i++) CHECK(attach(mounts[i], AT_FDCWD, targets[i]));
    int fs = fsopen_("devpts");
    fsset(fs, "ptmxmode", "0666"); fsset(fs, "mode", "0620"); fsset(fs, "gid", "5");
    CHECK(fscreate(fs));
    CHECK(attach(fsmount_(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), AT_FDCWD, "dev/pts"));
    CHECK(attach(queue, AT_FDCWD, "dev/mqueue"));
    int groups = plain("cgroup2");
    CHECK(attributes(groups, MOUNT_ATTR_RDONLY, -1));
    CHECK(attach(groups, AT_FDCWD, "sys/fs/cgroup"));
    CHECK(put("proc/sys/net/ipv4/ip_unprivileged_port_start", "0"));
    CHECK(put("proc/sys/net/ipv4/ping_group_range", "0 65535"));
    for (int i = 0; i < 12; i++) {
        if (stat(masked[i], &s) < 0) continue;
        int mask = S_ISDIR(s.st_mode) ? memory("4096", "0755", 0) : open_tree_(AT_FDCWD, "dev/null", 0);
        CHECK(attach(mask, AT_FDCWD, masked[i]));
        close(mask);
    }
    for (int i = 0; i < 5; i++) {
        if (access(read_only[i], F_OK) < 0) continue;
        int tree = open_tree_(AT_FDCWD, read_only[i], 0x8000);
        CHECK(attributes(tree, MOUNT_ATTR_RDONLY, -1));
        CHECK(attach(tree, AT_FDCWD, read_only[i]));
        close(tree);
    }
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
}

/* ---- privileges ------------------------------------------------------------------------------------------------ */
static void filter(void) {
    static struct sock_filter program[1024];
    int n = 0;
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int call = 0; call < 470; call++) {
        if (call == SYS_mount || call == SYS_kexec_load || call == SYS_init_module) continue;
        program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1);
        program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog loaded = { .len = n, .filter = program };
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &loaded));
}
static void privileges(void) {
    unsigned long long kept = 0xa80425fb; /* the field's fourteen */
    for (int capability = 0; capability < 41; capability++)
        if (!(kept >> capability & 1)) CHECK(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0));
    filter();
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = { { kept, kept, 0 }, { 0, 0, 0 } };
    CHECK(syscall(SYS_capset, &header, data));
}

/* ---- one container --------------------------------------------------------------------------------------------- */
static void pass(int socket, int *fds, int count) {
    char control[CMSG_SPACE(sizeof(int) * MOUNTS)] = { 0 }, byte = 1;
    struct iovec body = { &byte, 1 };
    struct msghdr message = { .msg_iov = &body, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * count) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    CHECK(sendmsg(socket, &message, 0));
}
static void take(int socket, int *fds, int count) {
    char control[CMSG_SPACE(sizeof(int) * MOUNTS)], byte;
    struct iovec body = { &byte, 1 };
    struct msghdr message = { .msg_iov = &body, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    CHECK(recvmsg(socket, &message, MSG_CMSG_CLOEXEC));
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int) * count);
}
/* Insula's process 1 and its descriptors, as crates/insula-plan/src/protocol/init.rs numbers them from 3 on; the program
 * comes last. The other end of the status socket stays open here. */
enum { CONFIG, STATUS, EXEC, EXIT_FACT, OUTPUT, ERROR, PROGRAM, INIT };
static int is_init(char **command) { return !strcmp(command[0], "@init"); }
static void init_prepare(char **command, int *fds) {
    struct sockaddr name = { .sa_family = AF_UNIX };
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    fds[STATUS] = pair[1];
    CHECK(fds[EXEC] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    CHECK(bind(fds[EXEC], &name, sizeof name.sa_family));
    CHECK(listen(fds[EXEC], 16));
    CHECK(fds[EXIT_FACT] = memfd_create("exit", MFD_CLOEXEC));
    CHECK(fds[OUTPUT] = open("/dev/null", O_RDONLY | O_CLOEXEC));
    CHECK(fds[ERROR] = open("/dev/null", O_RDONLY | O_CLOEXEC));
    CHECK(fds[PROGRAM] = open(command[1], O_RDONLY | O_CLOEXEC));
    CHECK(fds[CONFIG] = open(command[2], O_RDONLY | O_CLOEXEC));
}
static void init_exec(int *fds) {
    static char *name[] = { "insula-init", NULL };
    for (int i = 0; i < INIT; i++) CHECK(fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 100));
    for (int i = 0; i < INIT; i++) CHECK(dup2(fds[i], 3 + i));
    CHECK(syscall(SYS_close_range, 3 + INIT, ~0U, 0));
    syscall(SYS_execveat, 3 + PROGRAM, "", name, name + 1, AT_EMPTY_PATH);
    _exit(127);
}
static void inside(int socket, int number, char **command, int *init) {
    int mounts[MOUNTS];
    take(socket, mounts, MOUNTS);
    CHECK(setresgid(0, 0, 0)); CHECK(setresuid(0, 0, 0));
    CHECK(unshare(CLONE_NEWCGROUP));
    CHECK(sethostname("floor", 5));
    link_inside(number);
    mounts_inside(mounts);
    CHECK(syscall(SYS_close_range, 3, ~0U, 4));
    CHECK(setsid());
    privileges();
    if (is_init(command)) init_exec(init);
    CHECK(syscall(SYS_close_range, 3, ~0U, 0));
    execv(command[0], command);
    _exit(127);
}
static pid_t start(const char *image, int number, char **command) {
    int base = (1 << 20) + number * IDS, cgroup = cgroups_make(number), pair[2], mounts[MOUNTS], init[INIT];
    char path[64], map[64];
    char group[16];
    sprintf(group, "/%d", number);
    cgroups_enter(group);
    if (is_init(command)) init_prepare(command, init);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0));
    CHECK(setresuid(-1, base, -1));
    struct clone_args args = { .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD, .cgroup = cgroup };
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    CHECK(pid);
    if (pid == 0) { close(pair[0]); inside(pair[1], number, command, init); }
    CHECK(setresuid(-1, 0, -1));
    close(pair[1]); close(cgroup);
    sprintf(map, "0 %d %d", base, IDS);
    sprintf(path, "/proc/%d/uid_map", pid); CHECK(put(path, map));
    sprintf(path, "/proc/%d/gid_map", pid); CHECK(put(path, map));
    sprintf(path, "/proc/%d/ns/user", pid); int userns = open(path, O_RDONLY | O_CLOEXEC);
    sprintf(path, "/proc/%d/ns/net", pid); int netns = open(path, O_RDONLY | O_CLOEXEC);
    mounts_outside(image, base, userns, mounts);
    int route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    link_outside(route, number, netns);
    cgroups_enter("");
    pass(pair[0], mounts, MOUNTS);
    for (int i = 0; i < MOUNTS; i++) close(mounts[i]);
    for (int i = 0; is_init(command) && i < INIT; i++) close(init[i]);
    close(route); close(userns); close(netns); close(pair[0]);
    return pid;
}
static int finish(pid_t pid, int number) {
    int status;
    CHECK(waitpid(pid, &status, 0));
    /* The link goes with its namespace; deleting it here would wait for the whole network stack. */
    cgroups_remove(number);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static int join(pid_t pid, char **command) {
    int pidfd = syscall(SYS_pidfd_open, pid, 0), status;
    CHECK(pidfd);
    CHECK(setns(pidfd, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP));
    pid_t child = fork();
    CHECK(child);
    if (child == 0) { execv(command[0], command); _exit(127); }
    CHECK(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static int with_network(int number, char **command) {
    int base = (1 << 20) + number * IDS, pair[2], status;
    char path[64], map[64], byte = 0;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    struct clone_args args = { .flags = CLONE_NEWUSER | CLONE_NEWNET, .exit_signal = SIGCHLD };
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    CHECK(pid);
    if (pid == 0) {
        if (read(pair[1], &byte, 1) != 1) _exit(125);
        link_inside(number);
        _exit(0);
    }
    sprintf(map, "0 %d %d", base, IDS);
    sprintf(path, "/proc/%d/uid_map", pid); CHECK(put(path, map));
    sprintf(path, "/proc/%d/gid_map", pid); CHECK(put(path, map));
    sprintf(path, "/proc/%d/ns/user", pid); CHECK(dup2(open(path, O_RDONLY | O_CLOEXEC), 100));
    sprintf(path, "/proc/%d/ns/net", pid); CHECK(dup2(open(path, O_RDONLY | O_CLOEXEC), 101));
    int route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    link_outside(route, number, 101);
    CHECK(write(pair[0], &byte, 1));
    CHECK(waitpid(pid, &status, 0));
    if (status) return 125;
    pid = vfork();
    CHECK(pid);
    if (pid == 0) { execvp(command[0], command); _exit(127); }
    CHECK(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static int hold(const char *image, int count, char **command) {
    pid_t *pids = calloc(count, sizeof *pids);
    char byte;
    for (int i = 0; i < count; i++) pids[i] = start(image, i, command);
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) { }
    for (int i = 0; i < count; i++) kill(pids[i], SIGKILL);
    for (int i = 0; i < count; i++) finish(pids[i], i);
    return 0;
}
int main(int argc, char **argv) {
    if (argc > 4 && !strcmp(argv[1], "run")) return finish(start(argv[2], atoi(argv[3]), argv + 4), atoi(argv[3]));
    if (argc > 4 && !strcmp(argv[1], "hold")) return hold(argv[2], atoi(argv[3]), argv + 4);
    if (argc > 3 && !strcmp(argv[1], "exec")) return join(atoi(argv[2]), argv + 3);
    if (argc > 3 && !strcmp(argv[1], "net")) return with_network(atoi(argv[2]), argv + 3);
    fputs("usage: floor run IMAGE-MOUNT NUMBER COMMAND… | hold IMAGE-MOUNT COUNT COMMAND… | exec PID COMMAND… | net NUMBER COMMAND…\n",
        stderr);
    return 2;
}
