// A "kernel" for the tests of facts and plan: our own structs under the names the kernel uses, laid out differently on
// purpose, and functions whose code has the shapes the plan looks for. Nothing of it is taken from any kernel.
// Built once, and committed as tiny-kernel.elf:
//   gcc -O1 -gbtf -ffreestanding -fno-pic -fno-asynchronous-unwind-tables -c tiny-kernel.c -o tiny-kernel.o
//   ld -Ttext=0x1000000 -e 0 tiny-kernel.o -o tiny-kernel.elf && rm tiny-kernel.o
typedef unsigned long u64;
typedef unsigned int u32;
typedef struct { int counter; } atomic_t;
typedef struct refcount_struct { atomic_t refs; } refcount_t;
typedef unsigned short dev_t16;

struct super_block { char pad[20]; u32 s_dev; };
struct inode { u32 pad; struct super_block *i_sb; u64 i_ino; };
struct ext4_inode_info { char pad[24]; struct inode vfs_inode; char more[8]; u64 i_rsv_conversion_work; };
struct ext4_io_end { struct inode *inode; u32 flag; const refcount_t count; };
struct ext4_io_submit { void *bio; struct ext4_io_end *io_end; };
struct bvec_iter { u64 bi_sector; u32 bi_size; } __attribute__((packed));
struct bio { u32 bi_opf; unsigned char bi_status; struct bvec_iter bi_iter; void *bi_private; void *bi_end_io; };
struct address_space { void *pad; struct inode *host; };
struct folio { union { struct { u64 flags; struct { struct address_space *mapping; u64 index; }; }; u64 page; }; };
enum req_flag_bits { __REQ_FAILFAST = 8, __REQ_SYNC = 11 };
enum bh_state_bits { BH_Mapped = 5, BH_Unwritten = 12 };
enum writeback_sync_modes { WB_SYNC_NONE, WB_SYNC_ALL };

struct all {
	struct super_block a; struct ext4_inode_info b; struct ext4_io_end c; struct ext4_io_submit d; struct bio e;
	struct address_space f; struct folio g; enum req_flag_bits h; enum bh_state_bits i; enum writeback_sync_modes j;
} everything;

__asm__(
	".text\n"
	".macro begin name\n .globl \\name\n .type \\name, @function\n \\name:\n .byte 0xe8,0,0,0,0\n .endm\n"
	"begin ext4_init_io_end\n test %rdi,%rdi\n je 1f\n mov $1,%eax\n ret\n 1: xor %eax,%eax\n jmp __x86_return_thunk\n"
	"begin ext4_put_io_end\n push %rbx\n mov $-1,%eax\n lock xadd %eax,0xc(%rdi)\n cmp $1,%eax\n jne 1f\n testb $1,0x8(%rdi)\n 1: pop %rbx\n ret\n"
	"begin ext4_put_io_end_defer\n mov $-1,%ecx\n lock xadd %ecx,0xc(%rdi)\n cmp $1,%ecx\n jne 1f\n jmp ext4_release_io_end\n 1: ret\n"
	"begin ext4_release_io_end\n testb $1,0x8(%rdi)\n ret\n"
	"begin ext4_end_bio\n jmp ext4_put_io_end_defer\n"
	"begin ext4_bio_write_page\n mov 0x8(%rdi),%r14\n mov $1,%edx\n lock xadd %edx,0xc(%r14)\n test %edx,%edx\n ret\n"
	"begin ext4_end_io_rsv_work\n ret\n"
	"begin ext4_convert_unwritten_io_end_vec\n ret\n"
	"begin ext4_convert_unwritten_extents\n ret\n"
	"begin ext4_writepages\n ret\n"
	"begin submit_bio\n ret\n"
	".globl folio_end_writeback\n folio_end_writeback: endbr64\n .byte 0xe8,0,0,0,0\n push %rbx\n pop %rbx\n ret\n"
	".globl __x86_return_thunk\n __x86_return_thunk: ret\n int3\n"
	".globl no_xadd\n no_xadd: .byte 0xe8,0,0,0,0\n lock incl 0xc(%rax)\n ret\n"
	".globl jumped_behind\n jumped_behind: .byte 0xe8,0,0,0,0\n test %edi,%edi\n je 1f\n lock xadd %eax,0xc(%rdi)\n 1: ret\n"
	".globl two_atomics\n two_atomics: .byte 0xe8,0,0,0,0\n lock xadd %eax,0xc(%rdi)\n lock xadd %eax,0xc(%rsi)\n ret\n"
	".globl base_lost\n base_lost: .byte 0xe8,0,0,0,0\n lock xadd %edi,0xc(%rdi)\n ret\n"
	".globl last\n last: ret\n"
);
