package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/statefulset/kube"
)

const (
	secretPrefix = "sealane-"
	// secretsTick is how often the Secrets of applications are looked at, and
	// secretsRefresh how often they are written again although nothing changed:
	// somebody may have.
	secretsTick    = 5 * time.Second
	secretsRefresh = time.Minute
	// credsLife is how long the credentials in a Secret are good. They are renewed
	// after a third of it.
	credsLife = 7 * 24 * time.Hour
	// anyNamespace permits every namespace.
	anyNamespace = "*"
)

// appSecrets keeps a Secret with credentials for each application account in the
// namespaces that the account permits and the agent may write in.
type appSecrets struct {
	*member
	client *kube.Client
	// granted are the namespaces that the agent may write in.
	granted []string
	file    string
	now     func() time.Time

	// written is what is there, by namespace and account: it is on the disk before the
	// Secret is written, so that none is forgotten.
	written map[string]appSecret
	applied map[string]applied
	said    map[string]string
}

type appSecret struct {
	Namespace string    `json:"namespace"`
	Account   string    `json:"account"`
	Issued    time.Time `json:"issued"`
}

func (s appSecret) key() string { return s.Namespace + "/" + s.Account }

type applied struct {
	hash [sha256.Size]byte
	at   time.Time
}

// secrets makes the keeper of Secrets. Also where no namespace is granted: those
// that were written while one was are removed.
func (k *KubernetesOptions) secrets(m *member, dataDir string) *appSecrets {
	return &appSecrets{
		member: m, client: k.Client, granted: k.CredentialNamespaces, file: filepath.Join(dataDir, "secrets.json"), now: time.Now,
		applied: map[string]applied{}, said: map[string]string{},
	}
}

// run keeps the Secrets until ctx ends.
func (s *appSecrets) run(ctx context.Context) {
	for {
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.complain("", err)
		}
		if !sleep(ctx, secretsTick) {
			return
		}
	}
}

// complain logs an error once.
func (s *appSecrets) complain(key string, err error) {
	if err == nil {
		delete(s.said, key)
		return
	}
	if s.said[key] != err.Error() {
		s.said[key] = err.Error()
		s.log.Warn("credentials for applications are not as they shall be", "secret", key, "error", err)
	}
}

func (s *appSecrets) pass(ctx context.Context) error {
	if s.written == nil {
		if err := s.load(); err != nil {
			return err
		}
	}
	want := s.want()
	if err := s.note(want); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(s.written)) {
		w := s.written[key]
		var err error
		if want[key] {
			err = s.write(ctx, w)
		} else {
			err = s.remove(ctx, w)
		}
		s.complain(key, err)
	}
	return s.save()
}

// want is which Secrets there shall be.
func (s *appSecrets) want() map[string]bool {
	want := map[string]bool{}
	for _, p := range s.holder.now().parts {
		a := p.GetAccount()
		if !a.GetApplication() {
			continue
		}
		for _, ns := range s.granted {
			if slices.Contains(a.Namespaces, ns) || slices.Contains(a.Namespaces, anyNamespace) {
				want[appSecret{Namespace: ns, Account: a.Name}.key()] = true
			}
		}
	}
	return want
}

// note begins with what is new and renews what is old, on the disk first.
func (s *appSecrets) note(want map[string]bool) error {
	now := s.now().UTC().Truncate(time.Second)
	changed := false
	for key := range want {
		w, ok := s.written[key]
		if ok && now.Sub(w.Issued) < credsLife/3 {
			continue
		}
		ns, account, _ := strings.Cut(key, "/")
		s.written[key] = appSecret{Namespace: ns, Account: account, Issued: now}
		changed = true
	}
	if changed {
		return s.save()
	}
	return nil
}

func (s *appSecrets) write(ctx context.Context, w appSecret) error {
	creds, err := broker.UserCredsUntil(s.keyring, w.Account, w.Issued, w.Issued.Add(credsLife))
	if err != nil {
		return err
	}
	var ca []byte
	if m, ok := s.rt.(broker.Measurer); ok {
		ca = m.ClientCA()
	}
	data := kube.Object{}
	for k, v := range map[string][]byte{"url": []byte(s.rt.ClientURL()), "ca.crt": ca, "user.creds": creds} {
		data[k] = base64.StdEncoding.EncodeToString(v)
	}
	o := kube.Object{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
		"metadata": kube.Object{
			"name": secretPrefix + w.Account, "namespace": w.Namespace,
			"labels": kube.Object{
				"app.kubernetes.io/managed-by": "sealane-agent", "app.kubernetes.io/part-of": "sealane", "sealane.io/member": s.name,
			},
		},
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(b)
	if was := s.applied[w.key()]; was.hash == hash && s.now().Sub(was.at) < secretsRefresh {
		return nil
	}
	if err := s.client.Apply(ctx, o); err != nil {
		return err
	}
	s.applied[w.key()] = applied{hash, s.now()}
	return nil
}

func (s *appSecrets) remove(ctx context.Context, w appSecret) error {
	if err := s.client.Delete(ctx, "v1/Secret", w.Namespace, secretPrefix+w.Account); err != nil {
		return err
	}
	delete(s.written, w.key())
	delete(s.applied, w.key())
	return nil
}

func (s *appSecrets) load() error {
	b, err := os.ReadFile(s.file)
	s.written = map[string]appSecret{}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var l []appSecret
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		s.written = nil
		return fmt.Errorf("which Secrets there are of applications cannot be read: %w", err)
	}
	for _, w := range l {
		s.written[w.key()] = w
	}
	return nil
}

func (s *appSecrets) save() error {
	l := []appSecret{}
	for _, w := range s.written {
		l = append(l, w)
	}
	slices.SortFunc(l, func(a, b appSecret) int { return cmp.Compare(a.key(), b.key()) })
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(s.file); err == nil && string(have) == string(b) {
		return nil
	}
	return writeFile(s.file, b, 0o600)
}
