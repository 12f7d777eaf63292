//! Boots a stock kernel in QEMU on a vhost-user disk, and leaves nothing running.
