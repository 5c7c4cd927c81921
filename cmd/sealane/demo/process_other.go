//go:build unix && !linux

package demo

import "syscall"

// childAttributes keep the terminal's Ctrl-C for the demo, which then ends its
// children in order. Only Linux can end them when the demo is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
