package pod

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
)

const (
	// BootFile is the name of the boot state in its folder, and its key in a Secret.
	BootFile = "state"
	// maxBoot is what a Secret takes, with some room.
	maxBoot = 1000 << 10
	// maxState bounds what a boot state may unpack to.
	maxState = 256 << 20
)

// EncodeBoot makes the boot state of s. A state that is too large for a Secret
// loses its accounts but the system's, and counts as older than any other: it lets
// a new volume be reached by the agent, which has the rest.
func EncodeBoot(s *brokerv1.State) ([]byte, error) {
	b, err := pack(s)
	if err != nil || len(b) <= maxBoot {
		return b, err
	}
	small := proto.Clone(s).(*brokerv1.State)
	small.Generation, small.Accounts, small.Remotes = 1, nil, nil
	for _, a := range s.Accounts {
		if a.Key == s.SystemAccount {
			small.Accounts = append(small.Accounts, a)
		}
	}
	return pack(small)
}

func pack(s *brokerv1.State) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// DecodeBoot is the reverse of EncodeBoot.
func DecodeBoot(b []byte) (*brokerv1.State, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("boot state: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxState))
	if err != nil {
		return nil, fmt.Errorf("boot state: %w", err)
	}
	s := &brokerv1.State{}
	if err := proto.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("boot state: %w", err)
	}
	return s, nil
}

func readBoot(dir string) (*brokerv1.State, error) {
	b, err := os.ReadFile(filepath.Join(dir, BootFile))
	if err != nil {
		return nil, err
	}
	return DecodeBoot(b)
}

// newer tells whether the boot state counts more than what the process holds.
// After another operator the numbers began anew.
func newer(boot, held *brokerv1.State) bool {
	return held == nil || boot.Operator != held.Operator || boot.Generation > held.Generation
}
