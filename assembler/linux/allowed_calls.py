"""The system calls that moby's default profile lets a process with Docker's capabilities make.

Kernel numbers for x86_64, aarch64, and the 32-bit programs that each of them runs too, i386 and arm
(EABI); `-` where an architecture has no such call. The conditional ones (clone, socket,
personality) and the refused ones are in `seccomp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NEWEST = 466
"""The highest number the profile knows; what is above it is unknown rather than refused, but for
ARM's private calls."""

_TABLE = """
accept 43 202 - 285 | accept4 288 242 364 366 | access 21 - 33 33 | adjtimex 159 171 124 124
alarm 37 - 27 - | arch_prctl 158 - 384 - | arm_fadvise64_64 - - - 270
arm_sync_file_range - - - 341 | bind 49 200 361 282 | breakpoint - - - 983041 | brk 12 214 45 45
cacheflush - - - 983042 | cachestat 451 451 451 451 | capget 125 90 184 184 | capset 126 91 185 185
chdir 80 49 12 12 | chmod 90 - 15 15 | chown 92 - 182 182 | chown32 - - 212 212
chroot 161 51 61 61 | clock_adjtime 305 266 343 372 | clock_adjtime64 - - 405 405
clock_getres 229 114 266 264 | clock_getres_time64 - - 406 406 | clock_gettime 228 113 265 263
clock_gettime64 - - 403 403 | clock_nanosleep 230 115 267 265 | clock_nanosleep_time64 - - 407 407
close 3 57 6 6 | close_range 436 436 436 436 | connect 42 203 362 283
copy_file_range 326 285 377 391 | creat 85 - 8 8 | dup 32 23 41 41 | dup2 33 - 63 63
dup3 292 24 330 358 | epoll_create 213 - 254 250 | epoll_create1 291 20 329 357
epoll_ctl 233 21 255 251 | epoll_ctl_old 214 - - - | epoll_pwait 281 22 319 346
epoll_pwait2 441 441 441 441 | epoll_wait 232 - 256 252 | epoll_wait_old 215 - - -
eventfd 284 - 323 351 | eventfd2 290 19 328 356 | execve 59 221 11 11 | execveat 322 281 358 387
exit 60 93 1 1 | exit_group 231 94 252 248 | faccessat 269 48 307 334 | faccessat2 439 439 439 439
fadvise64 221 223 250 - | fadvise64_64 - - 272 - | fallocate 285 47 324 352
fanotify_mark 301 263 339 368 | fchdir 81 50 133 133 | fchmod 91 52 94 94 | fchmodat 268 53 306 333
fchmodat2 452 452 452 452 | fchown 93 55 95 95 | fchown32 - - 207 207 | fchownat 260 54 298 325
fcntl 72 25 55 55 | fcntl64 - - 221 221 | fdatasync 75 83 148 148 | fgetxattr 193 10 231 231
flistxattr 196 13 234 234 | flock 73 32 143 143 | fork 57 - 2 2 | fremovexattr 199 16 237 237
fsetxattr 190 7 228 228 | fstat 5 80 108 108 | fstat64 - - 197 197 | fstatat64 - - 300 327
fstatfs 138 44 100 100 | fstatfs64 - - 269 267 | fsync 74 82 118 118 | ftruncate 77 46 93 93
ftruncate64 - - 194 194 | futex 202 98 240 240 | futex_requeue 456 456 456 456
futex_time64 - - 422 422 | futex_wait 455 455 455 455 | futex_waitv 449 449 449 449
futex_wake 454 454 454 454 | futimesat 261 - 299 326 | get_robust_list 274 100 312 339
get_thread_area 211 - 244 - | getcpu 309 168 318 345 | getcwd 79 17 183 183 | getdents 78 - 141 141
getdents64 217 61 220 217 | getegid 108 177 50 50 | getegid32 - - 202 202 | geteuid 107 175 49 49
geteuid32 - - 201 201 | getgid 104 176 47 47 | getgid32 - - 200 200 | getgroups 115 158 80 80
getgroups32 - - 205 205 | getitimer 36 102 105 105 | getpeername 52 205 368 287
getpgid 121 155 132 132 | getpgrp 111 - 65 65 | getpid 39 172 20 20 | getppid 110 173 64 64
getpriority 140 141 96 96 | getrandom 318 278 355 384 | getresgid 120 150 171 171
getresgid32 - - 211 211 | getresuid 118 148 165 165 | getresuid32 - - 209 209
getrlimit 97 163 76 - | getrusage 98 165 77 77 | getsid 124 156 147 147 | getsockname 51 204 367 286
getsockopt 55 209 365 295 | gettid 186 178 224 224 | gettimeofday 96 169 78 78
getuid 102 174 24 24 | getuid32 - - 199 199 | getxattr 191 8 229 229 | getxattrat 464 464 464 464
inotify_add_watch 254 27 292 317 | inotify_init 253 - 291 316 | inotify_init1 294 26 332 360
inotify_rm_watch 255 28 293 318 | io_cancel 210 3 249 247 | io_destroy 207 1 246 244
io_getevents 208 4 247 245 | io_pgetevents 333 292 385 399 | io_pgetevents_time64 - - 416 416
io_setup 206 0 245 243 | io_submit 209 2 248 246 | ioctl 16 29 54 54 | ioprio_get 252 31 290 315
ioprio_set 251 30 289 314 | ipc - - 117 - | kill 62 129 37 37 | landlock_add_rule 445 445 445 445
landlock_create_ruleset 444 444 444 444 | landlock_restrict_self 446 446 446 446 | lchown 94 - 16 16
lchown32 - - 198 198 | lgetxattr 192 9 230 230 | link 86 - 9 9 | linkat 265 37 303 330
listen 50 201 363 284 | listmount 458 458 458 458 | listxattr 194 11 232 232
listxattrat 465 465 465 465 | llistxattr 195 12 233 233 | _llseek - - 140 140
lremovexattr 198 15 236 236 | lseek 8 62 19 19 | lsetxattr 189 6 227 227 | lstat 6 - 107 107
lstat64 - - 196 196 | madvise 28 233 219 220 | map_shadow_stack 453 453 453 453
membarrier 324 283 375 389 | memfd_create 319 279 356 385 | memfd_secret 447 447 447 -
mincore 27 232 218 219 | mkdir 83 - 39 39 | mkdirat 258 34 296 323 | mknod 133 - 14 14
mknodat 259 33 297 324 | mlock 149 228 150 150 | mlock2 325 284 376 390 | mlockall 151 230 152 152
mmap 9 222 90 - | mmap2 - - 192 192 | modify_ldt 154 - 123 - | mprotect 10 226 125 125
mq_getsetattr 245 185 282 279 | mq_notify 244 184 281 278 | mq_open 240 180 277 274
mq_timedreceive 243 183 280 277 | mq_timedreceive_time64 - - 419 419 | mq_timedsend 242 182 279 276
mq_timedsend_time64 - - 418 418 | mq_unlink 241 181 278 275 | mremap 25 216 163 163
mseal 462 462 462 462 | msgctl 71 187 402 304 | msgget 68 186 399 303 | msgrcv 70 188 401 302
msgsnd 69 189 400 301 | msync 26 227 144 144 | munlock 150 229 151 151 | munlockall 152 231 153 153
munmap 11 215 91 91 | name_to_handle_at 303 264 341 370 | nanosleep 35 101 162 162
newfstatat 262 79 - - | _newselect - - 142 142 | open 2 - 5 5 | openat 257 56 295 322
openat2 437 437 437 437 | pause 34 - 29 29 | pidfd_open 434 434 434 434
pidfd_send_signal 424 424 424 424 | pipe 22 - 42 42 | pipe2 293 59 331 359
pkey_alloc 330 289 381 395 | pkey_free 331 290 382 396 | pkey_mprotect 329 288 380 394
poll 7 - 168 168 | ppoll 271 73 309 336 | ppoll_time64 - - 414 414 | prctl 157 167 172 172
pread64 17 67 180 180 | preadv 295 69 333 361 | preadv2 327 286 378 392 | prlimit64 302 261 340 369
process_mrelease 448 448 448 448 | process_vm_readv 310 270 347 376
process_vm_writev 311 271 348 377 | pselect6 270 72 308 335 | pselect6_time64 - - 413 413
ptrace 101 117 26 26 | pwrite64 18 68 181 181 | pwritev 296 70 334 362 | pwritev2 328 287 379 393
read 0 63 3 3 | readahead 187 213 225 225 | readlink 89 - 85 85 | readlinkat 267 78 305 332
readv 19 65 145 145 | recv - - - 291 | recvfrom 45 207 371 292 | recvmmsg 299 243 337 365
recvmmsg_time64 - - 417 417 | recvmsg 47 212 372 297 | remap_file_pages 216 234 257 253
removexattr 197 14 235 235 | removexattrat 466 466 466 466 | rename 82 - 38 38
renameat 264 38 302 329 | renameat2 316 276 353 382 | restart_syscall 219 128 0 0 | rmdir 84 - 40 40
rseq 334 293 386 398 | rt_sigaction 13 134 174 174 | rt_sigpending 127 136 176 176
rt_sigprocmask 14 135 175 175 | rt_sigqueueinfo 129 138 178 178 | rt_sigreturn 15 139 173 173
rt_sigsuspend 130 133 179 179 | rt_sigtimedwait 128 137 177 177 | rt_sigtimedwait_time64 - - 421 421
rt_tgsigqueueinfo 297 240 335 363 | sched_get_priority_max 146 125 159 159
sched_get_priority_min 147 126 160 160 | sched_getaffinity 204 123 242 242
sched_getattr 315 275 352 381 | sched_getparam 143 121 155 155 | sched_getscheduler 145 120 157 157
sched_rr_get_interval 148 127 161 161 | sched_rr_get_interval_time64 - - 423 423
sched_setaffinity 203 122 241 241 | sched_setattr 314 274 351 380 | sched_setparam 142 118 154 154
sched_setscheduler 144 119 156 156 | sched_yield 24 124 158 158 | seccomp 317 277 354 383
select 23 - 82 - | semctl 66 191 394 300 | semget 64 190 393 299 | semop 65 193 - 298
semtimedop 220 192 - 312 | semtimedop_time64 - - 420 420 | send - - - 289 | sendfile 40 71 187 187
sendfile64 - - 239 239 | sendmmsg 307 269 345 374 | sendmsg 46 211 370 296 | sendto 44 206 369 290
set_robust_list 273 99 311 338 | set_thread_area 205 - 243 - | set_tid_address 218 96 258 256
set_tls - - - 983045 | setfsgid 123 152 139 139 | setfsgid32 - - 216 216 | setfsuid 122 151 138 138
setfsuid32 - - 215 215 | setgid 106 144 46 46 | setgid32 - - 214 214 | setgroups 116 159 81 81
setgroups32 - - 206 206 | setitimer 38 103 104 104 | setpgid 109 154 57 57
setpriority 141 140 97 97 | setregid 114 143 71 71 | setregid32 - - 204 204
setresgid 119 149 170 170 | setresgid32 - - 210 210 | setresuid 117 147 164 164
setresuid32 - - 208 208 | setreuid 113 145 70 70 | setreuid32 - - 203 203 | setrlimit 160 164 75 75
setsid 112 157 66 66 | setsockopt 54 208 366 294 | setuid 105 146 23 23 | setuid32 - - 213 213
setxattr 188 5 226 226 | setxattrat 463 463 463 463 | shmat 30 196 397 305 | shmctl 31 195 396 308
shmdt 67 197 398 306 | shmget 29 194 395 307 | shutdown 48 210 373 293 | sigaltstack 131 132 186 186
signalfd 282 - 321 349 | signalfd4 289 74 327 355 | sigprocmask - - 126 126 | sigreturn - - 119 119
socketcall - - 102 - | socketpair 53 199 360 288 | splice 275 76 313 340 | stat 4 - 106 106
stat64 - - 195 195 | statfs 137 43 99 99 | statfs64 - - 268 266 | statmount 457 457 457 457
statx 332 291 383 397 | symlink 88 - 83 83 | symlinkat 266 36 304 331 | sync 162 81 36 36
sync_file_range 277 84 314 - | syncfs 306 267 344 373 | sysinfo 99 179 116 116 | tee 276 77 315 342
tgkill 234 131 270 268 | time 201 - 13 - | timer_create 222 107 259 257
timer_delete 226 111 263 261 | timer_getoverrun 225 109 262 260 | timer_gettime 224 108 261 259
timer_gettime64 - - 408 408 | timer_settime 223 110 260 258 | timer_settime64 - - 409 409
timerfd_create 283 85 322 350 | timerfd_gettime 287 87 326 354 | timerfd_gettime64 - - 410 410
timerfd_settime 286 86 325 353 | timerfd_settime64 - - 411 411 | times 100 153 43 43
tkill 200 130 238 238 | truncate 76 45 92 92 | truncate64 - - 193 193 | ugetrlimit - - 191 191
umask 95 166 60 60 | uname 63 160 122 122 | unlink 87 - 10 10 | unlinkat 263 35 301 328
uretprobe 335 - - - | utime 132 - 30 - | utimensat 280 88 320 348 | utimensat_time64 - - 412 412
utimes 235 - 271 269 | vfork 58 - 190 190 | vmsplice 278 75 316 343 | wait4 61 260 114 114
waitid 247 95 284 280 | waitpid - - 7 - | write 1 64 4 4 | writev 20 66 146 146
"""


_COLUMNS = MappingProxyType({"x86_64": 0, "aarch64": 1, "i386": 2, "arm": 3})


def _parsed(text: str) -> dict[str, tuple[int | None, ...]]:
    rows = (cell.split() for cell in text.strip().replace("\n", " | ").split(" | "))
    return {name: tuple(map(_number, words)) for name, *words in rows}


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)


_CALLS: Mapping[str, tuple[int | None, ...]] = MappingProxyType(_parsed(_TABLE))


def names(*machines: str) -> tuple[str, ...]:
    """Every allowed call that one of `machines` has, as libseccomp and the runtime specification
    name it. Raises KeyError for a machine that is not in the table."""
    columns = [_COLUMNS[machine] for machine in machines]
    return tuple(
        name for name, row in _CALLS.items() if any(row[column] is not None for column in columns)
    )


def numbers(machine: str) -> frozenset[int]:
    """The allowed numbers on `machine` (`x86_64`, `aarch64`, `i386`, `arm`). Raises KeyError for
    another one."""
    column = _COLUMNS[machine]
    return frozenset(found for row in _CALLS.values() if (found := row[column]) is not None)


def number(name: str, machine: str) -> int | None:
    """The number of the allowed call `name` on `machine`, None where it has no such call."""
    return _CALLS[name][_COLUMNS[machine]]
