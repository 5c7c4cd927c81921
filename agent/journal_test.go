package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	journalv1 "github.com/sealane/sealane/api/journal/v1"
)

func stateOf(parts []*federationv1.Part) *journalv1.State {
	return &journalv1.State{
		Generation: 7, Epoch: 3, Parts: parts,
		Grants:  []*journalv1.IssuedGrant{{Peer: "osaka", Key: "U", IssuedAt: 5}},
		Choices: map[string]string{"g": "kyoto"}, Owned: []string{"stream/app/ORDERS"},
	}
}

func TestJournalRoundTrip(t *testing.T) {
	s := stateOf([]*federationv1.Part{accountPart("app"), ordersPart()})
	s.Doomed = []*federationv1.Part{accountPart("gone")}
	b, err := encodeJournal(s)
	check(t, err)
	got, err := decodeJournal(b)
	check(t, err)
	if !proto.Equal(s, got) {
		t.Errorf("got %v, want %v", got, s)
	}
	if h := heldFrom(s); !proto.Equal(h.state(), s) || h.hash != federationv1.StateHash(h.hashes()) {
		t.Errorf("got %v, want %v", h.state(), s)
	}
}

// However a file is torn or changed, it is noticed.
func TestJournalDamage(t *testing.T) {
	b, err := encodeJournal(stateOf([]*federationv1.Part{accountPart("app")}))
	check(t, err)
	for n := range b {
		if _, err := decodeJournal(b[:n]); !errors.Is(err, errJournalDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		c := append([]byte(nil), b...)
		c[n] ^= 1
		if _, err := decodeJournal(c); !errors.Is(err, errJournalDamaged) {
			t.Fatalf("byte %d changed: %v", n, err)
		}
	}
	if _, err := decodeJournal(append(b, 0)); !errors.Is(err, errJournalDamaged) {
		t.Fatalf("a byte more: %v", err)
	}
}

func TestJournalGenerations(t *testing.T) {
	open := func(dir string) *held {
		t.Helper()
		h, err := openHolder(&journal{dir: dir, log: testLog(t)})
		check(t, err)
		return h.now()
	}
	write := func(dir string, generations uint64) {
		t.Helper()
		h, err := openHolder(&journal{dir: dir, log: testLog(t)})
		check(t, err)
		for range generations {
			_, err := h.change(func(n *held) bool { n.epoch++; return true })
			check(t, err)
		}
	}
	damage := func(path string, how func([]byte) []byte) {
		t.Helper()
		b, err := os.ReadFile(path)
		check(t, err)
		check(t, os.WriteFile(path, how(b), 0o600))
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	empty := func([]byte) []byte { return nil }
	for _, tc := range []struct {
		name   string
		before func(dir string)
		want   uint64 // epoch, which counts the generations
		aside  []string
	}{
		{"whole", func(string) {}, 3, nil},
		{"current torn", func(dir string) { damage(dir+"/current", half) }, 2, []string{"current.damaged"}},
		{"current empty", func(dir string) { damage(dir+"/current", empty) }, 2, []string{"current.damaged"}},
		{"current missing", func(dir string) { check(t, os.Remove(dir+"/current")) }, 2, nil},
		{"previous torn", func(dir string) { damage(dir+"/previous", half) }, 3, []string{"previous.damaged"}},
		{"previous missing", func(dir string) { check(t, os.Remove(dir+"/previous")) }, 3, nil},
		{"both torn", func(dir string) { damage(dir+"/current", half); damage(dir+"/previous", half) }, 0, []string{"current.damaged", "previous.damaged"}},
		{"killed before the new one was in place", func(dir string) {
			check(t, os.WriteFile(dir+"/.current-123", []byte("x"), 0o600))
			check(t, os.WriteFile(dir+"/.previous", []byte("x"), 0o600))
		}, 3, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			write(dir, 3)
			tc.before(dir)
			if got := open(dir).epoch; got != tc.want {
				t.Errorf("epoch %d, want %d", got, tc.want)
			}
			for _, f := range tc.aside {
				if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
					t.Error(err)
				}
			}
			if left, _ := filepath.Glob(dir + "/.*"); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			// It goes on from there, and one torn file is again no loss.
			write(dir, 2)
			if got := open(dir).epoch; got != tc.want+2 {
				t.Errorf("epoch %d after two more, want %d", got, tc.want+2)
			}
			damage(dir+"/current", half)
			if got := open(dir).epoch; got != tc.want+1 {
				t.Errorf("epoch %d without the last, want %d", got, tc.want+1)
			}
		})
	}
}

func TestJournalUnreadable(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "current"), 0o700))
	if _, err := (&journal{dir: dir, log: testLog(t)}).load(); err == nil || errors.Is(err, errJournalDamaged) {
		t.Errorf("a folder in place of the journal: %v", err)
	}
}

// What cannot be journalled is not held.
func TestChangeIsNothingWithoutTheDisk(t *testing.T) {
	dir := t.TempDir()
	h, err := openHolder(&journal{dir: dir, log: testLog(t)})
	check(t, err)
	check(t, os.RemoveAll(dir))
	p := accountPart("app")
	u := &federationv1.Update{BaseHash: federationv1.EmptyHash, Upserts: []*federationv1.Part{p}, TargetHash: federationv1.StateHash(map[string]string{p.Id: p.Hash})}
	v, reason, now := h.accept(u)
	if v != unsaved || !strings.Contains(reason, "journal") || len(now.parts) != 0 || h.now() != now {
		t.Errorf("verdict %v, %q, %v", v, reason, now.parts)
	}
}

func FuzzDecodeJournal(f *testing.F) {
	b, err := encodeJournal(stateOf([]*federationv1.Part{accountPart("app")}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte(journalMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeJournal(b)
		if err != nil {
			if !errors.Is(err, errJournalDamaged) {
				t.Fatal(err)
			}
			return
		}
		heldFrom(s)
	})
}
