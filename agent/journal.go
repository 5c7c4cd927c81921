package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/sealane/sealane/api/journal/v1"
	"github.com/sealane/sealane/broker"
)

// journalMagic starts every journal file: name and version of the format.
const journalMagic = "sealane-journal-1\n"

// maxJournal bounds what is read: far more than any member holds.
const maxJournal = 1 << 30

var errJournalDamaged = errors.New("damaged journal")

// journal keeps the state in two files, the current generation and the one
// before it, so that whatever happens to one the other is whole.
type journal struct {
	dir string
	log *slog.Logger
}

func (j *journal) current() string  { return filepath.Join(j.dir, "current") }
func (j *journal) previous() string { return filepath.Join(j.dir, "previous") }

// encodeJournal frames a state: magic, length, SHA-256, content.
func encodeJournal(s *journalv1.State) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	b := make([]byte, 0, len(journalMagic)+8+len(sum)+len(body))
	b = append(b, journalMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	b = append(b, sum[:]...)
	return append(b, body...), nil
}

// decodeJournal reads what encodeJournal wrote. The error wraps
// errJournalDamaged.
func decodeJournal(b []byte) (*journalv1.State, error) {
	rest, ok := bytes.CutPrefix(b, []byte(journalMagic))
	if !ok {
		return nil, fmt.Errorf("%w: it does not start as one", errJournalDamaged)
	}
	if len(rest) < 8+sha256.Size {
		return nil, fmt.Errorf("%w: it is cut off", errJournalDamaged)
	}
	size, rest := binary.BigEndian.Uint64(rest), rest[8:]
	sum, body := rest[:sha256.Size], rest[sha256.Size:]
	if uint64(len(body)) != size {
		return nil, fmt.Errorf("%w: it has %d bytes instead of %d", errJournalDamaged, len(body), size)
	}
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: its checksum is wrong", errJournalDamaged)
	}
	s := &journalv1.State{}
	if err := proto.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("%w: %w", errJournalDamaged, err)
	}
	return s, nil
}

func readJournal(path string) (*journalv1.State, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxJournal {
		return nil, fmt.Errorf("%w: %s has %d bytes", errJournalDamaged, path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := decodeJournal(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// load reads the newest whole generation; without any it returns an empty
// state. Damaged files are moved aside. An error means that the disk cannot be
// read: then nothing is known, and nothing may be applied.
func (j *journal) load() (*journalv1.State, error) {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return nil, err
	}
	if err := j.tidy(); err != nil {
		return nil, err
	}
	var best *journalv1.State
	damaged := false
	for _, path := range []string{j.current(), j.previous()} {
		s, err := readJournal(path)
		switch {
		case err == nil:
			if best == nil || s.Generation > best.Generation {
				best = s
			}
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errJournalDamaged):
			damaged = true
			aside := path + ".damaged"
			j.log.Error("a generation of the journal is damaged, going on with the other", "error", err, "kept", aside)
			if err := os.Rename(path, aside); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
	if best == nil {
		if damaged {
			j.log.Error("no generation of the journal is whole: this member starts with nothing until the hub sends its state again")
		}
		best = &journalv1.State{}
	}
	return best, nil
}

// tidy removes what a crash left half written.
func (j *journal) tidy() error {
	files, err := filepath.Glob(filepath.Join(j.dir, ".*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

// save makes s the current generation and what was current the previous one. It
// is on the disk when save returns.
func (j *journal) save(s *journalv1.State) error {
	b, err := encodeJournal(s)
	if err != nil {
		return err
	}
	if err := j.keepCurrent(); err != nil {
		return err
	}
	return broker.WriteFile(j.current(), b, 0o600)
}

// keepCurrent gives the current file the name of the previous one too, so that
// at no moment there is none.
func (j *journal) keepCurrent() error {
	tmp := filepath.Join(j.dir, ".previous")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Link(j.current(), tmp)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the first generation, or the current one was damaged
	case err != nil: // no hard links on this file system
		b, err := os.ReadFile(j.current())
		if err != nil {
			return err
		}
		return broker.WriteFile(j.previous(), b, 0o600)
	}
	return os.Rename(tmp, j.previous())
}
