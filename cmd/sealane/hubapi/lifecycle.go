package hubapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// Member reads one member. The error is explained.
func (h *Hub) Member(ctx context.Context, name string) (*v1alpha1.MemberCluster, error) {
	m := &v1alpha1.MemberCluster{}
	err := h.Get(ctx, client.ObjectKey{Name: name}, m)
	if apierrors.IsNotFound(err) && !NotServed(err) {
		return nil, noMember(name)
	}
	return m, h.Explain(err)
}

func noMember(name string) error {
	return fmt.Errorf("%w %q (see: sealane get members)", ErrNoMember, name)
}

// ErrNoMember says that there is no member of a name.
var ErrNoMember = errors.New("there is no member")

// EditMember changes a member; whatever else is changed meanwhile stays. Change
// returns false if there is nothing to do.
func (h *Hub) EditMember(ctx context.Context, name string, change func(*v1alpha1.MemberCluster) (bool, error)) (changed bool, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		m := &v1alpha1.MemberCluster{}
		if err := h.Get(ctx, client.ObjectKey{Name: name}, m); err != nil {
			return err
		}
		before := m.DeepCopy()
		if changed, err = change(m); err != nil || !changed {
			return err
		}
		return h.Patch(ctx, m, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
	if apierrors.IsNotFound(err) && !NotServed(err) {
		return false, noMember(name)
	}
	return changed, h.Explain(err)
}

// Suspend has nothing sent to a member any more, or has it sent again.
func (h *Hub) Suspend(ctx context.Context, name string, suspended bool) (changed bool, err error) {
	return h.EditMember(ctx, name, func(m *v1alpha1.MemberCluster) (bool, error) {
		changed := m.Spec.Suspended != suspended
		m.Spec.Suspended = suspended
		return changed, nil
	})
}

// Revoke revokes the keys of a member, and deletes the join tokens for its very
// name, which may have leaked with them.
func (h *Hub) Revoke(ctx context.Context, name string) (changed bool, err error) {
	changed, err = h.EditMember(ctx, name, func(m *v1alpha1.MemberCluster) (bool, error) {
		id := m.Status.Identity
		if id == nil {
			return false, fmt.Errorf("member %q has no key: it has not enrolled yet; delete its join token, or the member with \"sealane remove %s\"", name, name)
		}
		n := len(m.Spec.RevokedKeys)
		for _, key := range []string{id.KeyHash, id.NextKeyHash, m.Status.LinkKey} {
			if key != "" && !slices.Contains(m.Spec.RevokedKeys, key) {
				m.Spec.RevokedKeys = append(m.Spec.RevokedKeys, key)
			}
		}
		return len(m.Spec.RevokedKeys) > n, nil
	})
	if err != nil || !changed {
		return changed, err
	}
	var tokens v1alpha1.JoinTokenList
	if err := h.List(ctx, &tokens); err != nil {
		return true, fmt.Errorf("the key is revoked, but join tokens for %s may be left (see: sealane token list): %w", name, h.Explain(err))
	}
	for i := range tokens.Items {
		if t := &tokens.Items[i]; t.Spec.Cluster == name {
			if err := h.Delete(ctx, t); client.IgnoreNotFound(err) != nil {
				return true, fmt.Errorf("the key is revoked, but join token %s is left: %w", t.Name, h.Explain(err))
			}
		}
	}
	return true, nil
}

// Remove deletes a member. With forget nothing is waited for, not even the hub.
func (h *Hub) Remove(ctx context.Context, name string, forget bool) error {
	_, err := h.EditMember(ctx, name, func(m *v1alpha1.MemberCluster) (bool, error) {
		if !forget {
			return false, nil
		}
		m.Spec.Removal = v1alpha1.LeaveForget
		m.Finalizers = slices.DeleteFunc(m.Finalizers, func(f string) bool { return f == v1alpha1.LeaveFinalizer })
		return true, nil
	})
	if err != nil {
		return err
	}
	m := &v1alpha1.MemberCluster{}
	m.Name = name
	return h.Explain(client.IgnoreNotFound(h.Delete(ctx, m)))
}

// Held tells what the guard against mass removal holds back of a member; empty:
// nothing.
func Held(m *v1alpha1.MemberCluster) string {
	if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionProgrammed); c != nil && c.Reason == v1alpha1.ReasonRemovalHeld {
		return c.Message
	}
	return ""
}

// AllowRemoval permits what the guard holds back of a member: to bring it to the
// state that it shall have now, or, if parts is not 0, to take so many parts from
// it at once.
func (h *Hub) AllowRemoval(ctx context.Context, name string, parts int) error {
	_, err := h.EditMember(ctx, name, func(m *v1alpha1.MemberCluster) (bool, error) {
		value := m.Status.DesiredHash
		if parts > 0 {
			value = strconv.Itoa(parts)
		} else if Held(m) == "" {
			return false, fmt.Errorf("nothing of member %q is held back", name)
		}
		if m.Annotations == nil {
			m.Annotations = map[string]string{}
		}
		changed := m.Annotations[v1alpha1.AllowRemovalAnnotation] != value
		m.Annotations[v1alpha1.AllowRemovalAnnotation] = value
		return changed, nil
	})
	return err
}
