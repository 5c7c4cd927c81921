package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// watched are settings of the whole machine that change with a cluster, as paths
// in /proc/sys: by the kubelet, by the node's systemd, by kind and by an engine.
var watched = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"fs/file-max", "fs/nr_open", "fs/inotify/max_user_instances", "fs/inotify/max_user_watches",
	"fs/protected_fifos", "fs/protected_hardlinks", "fs/protected_regular", "fs/protected_symlinks",
	"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/conf/default/forwarding",
	"net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding",
}

// settings are the values of before. They lie in a file as long as they are not
// restored, so that a run that was killed is cleaned up by the next.
type settings struct {
	file   string
	Values map[string]string `json:"values"`
	// Chains says that an engine's chains of iptables were there before the lab's
	// own engine started.
	Chains bool `json:"chains"`
}

// load reads what an earlier run left, or else takes down the present values.
func (s *settings) load(file string) error {
	s.file = file
	raw, err := os.ReadFile(file)
	if err == nil {
		return json.Unmarshal(raw, s)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.Values = map[string]string{}
	for _, name := range watched {
		if value, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil { // not every kernel has all
			s.Values[name] = strings.TrimSpace(string(value))
		}
	}
	return s.save()
}

func (s *settings) save() error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(s.file, raw, 0o600)
}

// restore writes back what differs, and forgets it when all is as it was.
func (s *settings) restore() error {
	if s.file == "" {
		return nil
	}
	var errs []error
	for _, name := range watched { // in this order: all/ sets those of every interface
		value, ok := s.Values[name]
		file := filepath.Join("/proc/sys", name)
		now, err := os.ReadFile(file)
		if !ok || err != nil || strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			errs = append(errs, fmt.Errorf("setting back %s to %s: %w", name, value, err))
		}
	}
	if len(errs) == 0 {
		return os.Remove(s.file)
	}
	return errors.Join(errs...)
}
